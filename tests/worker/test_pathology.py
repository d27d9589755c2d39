"""`sentinode pathology`: labels and clinical variables from a file, on one site."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner

from dicom_node.db import now
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from tests.pathology_site import history, patient_of
from worker import clinical, outcomes, pathology, roles
from worker.cli import main
from worker.clinical import Variable
from worker.roles import Role

HEAD = "patient_id,side,study_uid,nsln,alnd,alnd_on,size_cm,grade,source,correction\n"


@pytest.fixture
def run(bench, monkeypatch):
    settings = bench.site.settings
    monkeypatch.setenv("SENTINODE_MODELS_DIR", str(settings.models))

    def call(*arguments):
        options = ["--data-dir", str(settings.data_dir)]
        if settings.database_url:
            options += ["--database-url", settings.database_url]
        return CliRunner().invoke(main, ["pathology", *arguments, *options])

    return call


@pytest.fixture
def write_csv(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "pathology.csv"
        path.write_text(text, encoding=encoding)
        return str(path)

    return write


def listed(run):
    return json.loads(run("list", "--json").stdout)


def changes_of(done):
    return json.loads(done.stdout)["lines"][0]["changes"]


def test_labels_and_variables_are_recorded_once(run, study, slices, write_csv):
    patient = patient_of(slices)
    path = write_csv(
        f"{HEAD}{patient},L,{study},positive,yes,2026-04-01,1.8,II,board,\n"
    )

    dry = run("import", path, "--dry-run", "--json")
    nothing = listed(run)
    first = run("import", path, "--yes", "--json")
    again = run("import", path, "--yes", "--json")

    assert [one.exit_code for one in (dry, first, again)] == [0, 0, 0], dry.output
    assert nothing == []
    said = {"nsln": "recorded", "size_cm": "recorded", "grade": "recorded"}
    assert changes_of(dry) == changes_of(first) == said
    assert changes_of(again) == dict.fromkeys(said, "unchanged")
    (one,) = listed(run)
    assert (one["nsln"]["value"], one["sln"]) == ("positive", None)
    assert one["clinical"] == {"size_cm": "1.8", "grade": "II"}
    assert patient not in first.output + dry.output


def test_without_axillary_dissection_the_label_is_unknown(
    run, study, slices, write_csv
):
    path = write_csv(f"{HEAD}{patient_of(slices)},L,{study},,no,,,,board,\n")

    assert run("import", path, "--yes").exit_code == 0
    (one,) = listed(run)
    assert one["nsln"]["value"] == "unknown"


def test_a_correction_is_a_new_event_and_says_so(run, bench, study, slices, write_csv):
    line = f"{patient_of(slices)},L,{study},{{}},yes,2026-04-01,{{}},II,board,{{}}\n"
    run("import", write_csv(HEAD + line.format("positive", "1.8", "")), "--yes")
    before = now()
    careless = run(
        "import", write_csv(HEAD + line.format("negative", "2.1", "")), "--yes"
    )
    done = run(
        "import", write_csv(HEAD + line.format("negative", "2.1", "yes")), "--yes"
    )

    assert (careless.exit_code, done.exit_code) == (4, 0)
    assert "opposite of what is recorded" in careless.output
    (one,) = listed(run)
    assert (one["nsln"]["value"], one["clinical"]["size_cm"]) == ("negative", "2.1")
    side = (study, Laterality.LEFT)
    with bench.sessions() as session:
        then = pathology.known(session, itc_is_positive=False, as_of=before)[side]
        today = pathology.known(session, itc_is_positive=False)[side]
    assert (then.nsln.value, today.nsln.value) == ("positive", "negative")
    assert then.clinical[Variable.SIZE_CM] == "1.8"


def test_the_word_unknown_takes_a_variable_back(run, study, slices, write_csv):
    line = f"{patient_of(slices)},L,{study},,,,{{}},II,board,\n"
    run("import", write_csv(HEAD + line.format("1.8")), "--yes")
    done = run("import", write_csv(HEAD + line.format("unknown")), "--yes", "--json")

    assert changes_of(done) == {"size_cm": "withdrawn", "grade": "unchanged"}
    assert listed(run)[0]["clinical"] == {"grade": "II"}


def test_a_sentinel_result_goes_the_way_of_slnd(run, bench, study, slices, write_csv):
    head = "patient_id;side;sln;deposit;performed_on;nsln;size_cm\n"
    path = write_csv(
        f"{head}{patient_of(slices)};L;positive;macro;2026-04-01;negative;1,8\n",
        "utf-8-sig",
    )
    done = run("import", path, "--source", "registry", "--yes")

    assert done.exit_code == 0, done.output
    assert history(bench, study) == ["positive"]
    (one,) = listed(run)
    assert (one["sln"]["value"], one["nsln"]["value"]) == ("positive", "negative")
    assert one["clinical"] == {"size_cm": "1.8"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("STRANGER,L,{study},positive,yes,,,,board,", "the patient ID is not that of"),
        ("{patient},R,{study},positive,yes,,,,board,", "no analysed case on side R"),
        ("{patient},L,1.2.3,positive,yes,,,,board,", "there is no study 1.2.3"),
        ("{patient},L,{study},maybe,yes,,,,board,", "nsln is none of"),
        ("{patient},L,{study},negative,no,,,,board,", "there was no dissection"),
        ("{patient},L,{study},positive,yes,2026-03-01,,,board,", "before the MRI"),
        ("{patient},L,{study},positive,yes,2999-03-01,,,board,", "in the future"),
        ("{patient},L,{study},,,,18 mm,,board,", "size_cm must be a number of cent"),
        ("{patient},L,{study},,,,,IV,board,", "grade must be I, II or III"),
        ("{patient},L,{study},,,,,,board,", "it says nothing"),
        ("{patient},L,{study},,,,1.8,,,", "names no source"),
        ("{patient},L", "more or fewer fields"),
    ],
)
def test_a_wrong_line_keeps_all_from_being_recorded(
    run, study, slices, write_csv, line, why
):
    patient = patient_of(slices)
    wrong = line.format(patient=patient, study=study)
    right = f"{patient},L,{study},positive,yes,,,,board,"
    done = run("import", write_csv(f"{HEAD}{wrong}\n{right}\n"), "--yes", "--json")

    assert done.exit_code == 4
    assert why in json.loads(done.stdout)["lines"][0]["detail"]
    assert listed(run) == []
    assert "STRANGER" not in done.output
    assert patient not in done.output


def test_an_unknown_column_is_refused(run, study, write_csv):
    done = run("import", write_csv("patient_id,side,nodes\nX,L,3\n"), "--yes")
    assert done.exit_code == 1
    assert "column number 3 is unknown" in done.output


def test_the_rule_for_isolated_cells_is_the_sites(bench, study):
    cells = SlndResult(Slnd.NEGATIVE, Deposit.ITC, None, "board", now())
    with bench.sessions.begin() as session:
        outcomes.record_slnd(session, study, Laterality.LEFT, cells, "me")
    with bench.sessions() as session:
        values = [
            pathology.known(session, itc_is_positive=rule)[
                study, Laterality.LEFT
            ].sln.value
            for rule in (False, True)
        ]
    assert values == ["negative", "positive"]


def test_a_withdrawn_sentinel_result_is_unknown(bench, study):
    at = now()
    with bench.sessions.begin() as session:
        for i, what in enumerate((Slnd.POSITIVE, Slnd.WITHDRAWN)):
            said = SlndResult(what, None, None, "board", at + timedelta(seconds=i))
            outcomes.record_slnd(session, study, Laterality.LEFT, said, "me")
    with bench.sessions() as session:
        found = pathology.known(session, itc_is_positive=False)
    assert found[study, Laterality.LEFT].sln.value == "unknown"


def test_a_role_is_given_once_for_ever(bench):
    with bench.sessions.begin() as session:
        roles.assign(session, b"k", {"p1": "A", "p2": "B"}, {"B"}, now())
        first = roles.all_roles(session)
        roles.assign(session, b"other", {"p1": "C", "p2": "A"}, {"C"}, now())
        assert roles.all_roles(session) == first
    assert first["p2"] == (Role.EXTERNAL, "B")


def test_a_fifth_of_the_patients_is_held_out():
    drawn = [roles.draw(b"secret", f"patient {i}") for i in range(4000)]
    assert 0.18 < drawn.count(Role.HOLDOUT) / len(drawn) < 0.22


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("size_cm", "2,5", "2.5"),
        ("size_cm", "2.0", "2"),
        ("subtype", "Luminal_a", "luminal A"),
        ("birads", "4a", "4A"),
        ("mri_aln", "positive", "1"),
        ("grade", "unknown", None),
        ("age", "", None),
    ],
)
def test_a_value_has_one_form(variable, text, value):
    assert clinical.canonical(Variable(variable), text) == value
