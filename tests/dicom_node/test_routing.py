"""Rules say what their reader would say; a faulty file is never guessed at."""

import pytest
from pydicom import Dataset

from dicom_node import routing
from dicom_node.errors import SettingsError
from dicom_node.study import Reason
from tests import dicom_objects


def header(**values):
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


BREAST = header(
    StudyDescription="MR BREAST bilateral",
    MagneticFieldStrength=1.5,
    ImageType=["ORIGINAL", "PRIMARY"],
    PatientID="P1",
)


def rules(text, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    return routing.parse(path)


def becomes(text, tmp_path, *headers, sender="MR1"):
    return routing.route(rules(text, tmp_path), sender, headers or (BREAST,))


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ('StudyDescription = "breast"', True),
        ('StudyDescription = "^breast"', False),
        ('StudyDescription = "mamma|BREAST"', True),
        ("MagneticFieldStrength = { min = 1.4 }", True),
        ("MagneticFieldStrength = { min = 1.4, max = 1.45 }", False),
        ("MagneticFieldStrength = { max = 1.5 }", True),
        ('ImageType = "ORIGINAL\\\\\\\\PRIMARY"', True),
        ('ImageType = "PRIMARY$"', True),
        ('SeriesDescription = ""', False),  # absent: no pattern finds anything
        ("EchoTime = { min = 0 }", False),
        ('StudyDescription = "breast", PatientID = "^P2"', False),
    ],
)
def test_conditions(tmp_path, condition, matches):
    text = f'[[rule]]\nname = "r"\nexclude = true\nmatch = {{ {condition} }}\n'
    found = becomes(text, tmp_path)
    assert (found.ignored is Reason.EXCLUDED_BY_RULE) is matches


TWO = """
unmatched = "ignore"
[[rule]]
name = "not biopsies"
exclude = true
match = { SeriesDescription = "biopsy" }
[[rule]]
name = "breast"
from = ["MR1"]
match = { StudyDescription = "breast" }
unless = { PatientID = "^QA" }
phase = "post-2"
destinations = ["A@10.0.0.1:104", "https://pacs/dicom-web"]
"""


def test_the_first_rule_that_matches_decides(tmp_path):
    found = becomes(TWO, tmp_path)
    assert (found.rule, found.ignored, found.phase) == ("breast", None, "post-2")
    assert [str(one) for one in found.destinations] == [
        "A@10.0.0.1:104",
        "https://pacs/dicom-web",
    ]
    both = becomes(TWO, tmp_path, BREAST, header(SeriesDescription="Biopsy plan"))
    assert both.ignored is Reason.EXCLUDED_BY_RULE
    assert "not biopsies" in both.why


def test_all_conditions_hold_on_one_image(tmp_path):
    text = (
        '[[rule]]\nname = "r"\nexclude = true\n'
        'match = { StudyDescription = "breast", EchoTime = { max = 3 } }\n'
    )
    apart = (header(StudyDescription="breast", EchoTime=90), header(EchoTime=2))
    assert becomes(text, tmp_path, *apart).ignored is None


def test_unless_counts_for_any_image(tmp_path):
    found = becomes(TWO, tmp_path, BREAST, header(PatientID="QA7"))
    assert found.ignored is Reason.NO_RULE


def test_another_sender_is_unmatched(tmp_path):
    assert becomes(TWO, tmp_path, sender="MR2").ignored is Reason.NO_RULE


def test_without_rules_everything_is_taken(tmp_path):
    assert becomes("", tmp_path) == routing.EVERYTHING


def test_a_destination_list_may_be_empty(tmp_path):
    text = '[[rule]]\nname = "keep here"\ndestinations = []\n'
    assert becomes(text, tmp_path).destinations == ()


R = '[[rule]]\nname = "r"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rule = 1", "rule: is not what it should be: write each rule under a line"),
        ("rule = [1]", "rule 1: is not what it should be"),
        ('[[rule]]\nmatch = { PatientID = "x" }', "rule 1, name: is missing: write"),
        (
            R + 'match = { PatientIdent = "x" }',
            "rule 'r', match, PatientIdent: 'PatientI",
        ),
        (
            R + 'match = { PatientID = "(" }',
            "rule 'r', match, PatientID: '(' is no regu",
        ),
        (R + "match = { EchoTime = {} }", "rule 'r', match, EchoTime: give min, max"),
        (
            R + "match = { EchoTime = 3 }",
            "rule 'r', match, EchoTime: is not what it sho",
        ),
        (
            R + 'match = { EchoTime = {min = "x"} }',
            "EchoTime, min: is not what it should",
        ),
        (
            R + "match = { EchoTime = {least = 1} }",
            "least: is not known: write one of mi",
        ),
        (R + 'match = "x"', "rule 'r', match: is not what it should be: write a table"),
        (
            R + 'phase = "late"',
            "rule 'r', phase: is not what it should be: write \"pre\"",
        ),
        (
            R + 'destinations = ["nowhere"]',
            "rule 'r', destinations, value 1: 'nowhere'",
        ),
        (R + 'from = "MR1"', "rule 'r', from: is not what it should be: write a list"),
        (
            R + 'exclude = "maybe"',
            "rule 'r', exclude: is not what it should be: write t",
        ),
        (
            R + 'exclude = true\nphase = "post-1"',
            "rule 'r': an excluded study has neithe",
        ),
        (R + R, "two rules have one name, 'r': give each its own"),
        (
            R + 'action = "x"',
            "rule 'r', action: is not known: write one of name, from,",
        ),
        ('unmatched = "drop"', 'unmatched: is not what it should be: write "take"'),
        ("[[rule", "is not TOML"),
    ],
)
def test_a_faulty_file_is_one_sentence_of_rule_field_and_what_to_write(
    tmp_path, text, said
):
    with pytest.raises(SettingsError) as caught:
        rules(text, tmp_path)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
    for inside in ("pydantic", "Input", "Field", "Value error", "function-"):
        assert inside not in message


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        routing.parse(tmp_path / "none.toml")


def test_a_long_value_costs_little(tmp_path):
    text = '[[rule]]\nname = "r"\nexclude = true\nmatch = { StudyDescription = "b$" }\n'
    with dicom_objects.lenient():
        long = header(StudyDescription="a" * 10**6)
    assert becomes(text, tmp_path, long).ignored is None
