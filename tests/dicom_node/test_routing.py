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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rule = 1", "rule"),
        ('[[rule]]\nmatch = { PatientID = "x" }', "name"),
        ('[[rule]]\nname = "r"\nmatch = { PatientIdent = "x" }', "PatientIdent"),
        ('[[rule]]\nname = "r"\nmatch = { PatientID = "(" }', "regular expression"),
        ('[[rule]]\nname = "r"\nmatch = { EchoTime = {} }', "min, max"),
        ('[[rule]]\nname = "r"\nphase = "late"', "phase"),
        ('[[rule]]\nname = "r"\ndestinations = ["nowhere"]', "destinations"),
        ('[[rule]]\nname = "r"\nexclude = true\nphase = "post-1"', "neither phase"),
        ('[[rule]]\nname = "r"\n[[rule]]\nname = "r"', "one name"),
        ('unmatched = "drop"', "unmatched"),
        ("[[rule", "not TOML"),
        ('[[rule]]\nname = "r"\naction = "x"', "action"),
    ],
)
def test_a_faulty_file_says_where(tmp_path, text, said):
    with pytest.raises(SettingsError, match=said):
        rules(text, tmp_path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        routing.parse(tmp_path / "none.toml")


def test_a_long_value_costs_little(tmp_path):
    text = '[[rule]]\nname = "r"\nexclude = true\nmatch = { StudyDescription = "b$" }\n'
    with dicom_objects.lenient():
        long = header(StudyDescription="a" * 10**6)
    assert becomes(text, tmp_path, long).ignored is None
