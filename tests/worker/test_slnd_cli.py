"""`sentinode slnd` by hand and from a file, on one site."""

import getpass
import json

import pytest
from click.testing import CliRunner

from tests.pathology_messages import order
from tests.pathology_site import history, parked, patient_of, said, send
from worker.cli import main


@pytest.fixture
def run(bench, monkeypatch):
    """Return a function that runs `sentinode` on the site under test."""
    settings = bench.site.settings
    monkeypatch.setenv("SENTINODE_MODELS_DIR", str(settings.models))

    def call(*arguments: str, stdin: str | None = None):
        options = ["--data-dir", str(settings.data_dir)]
        if settings.database_url:
            options += ["--database-url", settings.database_url]
        return CliRunner().invoke(main, [*arguments, *options], input=stdin)

    return call


def set_(run, uid, patient, what, *others, side="L"):
    return run(
        *("slnd", "set", "--study", uid, "--side", side, "--patient-id", "-"),
        *("--result", what, "--source", "desk", "--yes", *others),
        stdin=patient,
    )


def test_by_hand_a_correction_is_said_by_yes_and_may_be_forbidden(
    run, bench, study, slices
):
    patient = patient_of(slices)
    first = set_(run, study, patient, "positive")
    again = set_(run, study, patient, "positive")
    careful = set_(run, study, patient, "negative", "--no-correction")
    corrected = set_(run, study, patient, "negative")

    assert [one.exit_code for one in (first, again, careful, corrected)] == [0, 0, 4, 0]
    assert again.stdout.startswith("unchanged: ")
    assert "pathway" in first.stderr  # the case is shown, by --yes too
    assert "correction" in careful.stderr
    assert "instead of positive" in corrected.stdout
    assert history(bench, study) == ["positive", "negative"]


@pytest.mark.parametrize(
    ("what", "others", "exit_code", "sentence"),
    [
        ("positive", ("--deposit", "itc"), 4, "is negative at this site, not positive"),
        ("negative", ("--deposit", "macro"), 4, "is positive, not negative"),
        ("positive", ("--performed-on", "2026-03-03"), 4, "before the MRI"),
        ("positive", ("--performed-on", "2999-03-03"), 2, "in the future"),
        ("withdrawn", (), 4, "no SLND result that could be withdrawn"),
    ],
)
def test_by_hand_what_cannot_be_is_one_clear_sentence(
    run, bench, study, slices, what, others, exit_code, sentence
):
    done = set_(run, study, patient_of(slices), what, *others)

    assert done.exit_code == exit_code
    assert sentence in done.stderr
    assert patient_of(slices) not in done.output
    assert history(bench, study) == []


def test_a_site_may_turn_the_rule_of_isolated_cells(
    run, study, slices, monkeypatch, bench
):
    monkeypatch.setenv("SENTINODE_ITC_IS_POSITIVE", "true")

    negative = set_(run, study, patient_of(slices), "negative", "--deposit", "itc")
    positive = set_(run, study, patient_of(slices), "positive", "--deposit", "itc")

    assert (negative.exit_code, positive.exit_code) == (4, 0)
    assert history(bench, study) == ["positive"]


def test_the_list_shows_what_counts_and_what_waits(run, box, study, slices):
    patient = patient_of(slices)
    send(box, order(), patient=patient)
    send(box, order("odd"), patient=patient, control_id="M2")
    set_(run, study, patient, "withdrawn")

    everything = json.loads(run("slnd", "list", "--json").stdout)
    waiting = json.loads(run("slnd", "list", "--parked", "--json").stdout)
    of_study = json.loads(run("slnd", "list", "--study", study, "--json").stdout)

    assert [one["state"] for one in everything] == ["superseded", "recorded", "parked"]
    assert [one["reason"] for one in waiting] == ["result_unknown"]
    assert of_study == everything
    assert run("slnd", "list", "--study", "1.2.3").exit_code == 3
    assert "result_unknown" in run("slnd", "list").stdout
    assert patient not in json.dumps(everything)


def test_a_person_resolves_or_discards_what_waits(run, bench, box, study, slices):
    patient = patient_of(slices)
    send(box, order("odd"), patient=patient)
    send(box, order(side="axilla"), patient=patient, control_id="M2")
    send(box, order(), patient="SOMEONE-ELSE", control_id="M3")
    odd, sideless, stranger = (str(one.parked_id) for one in parked(bench))

    vague = run("slnd", "resolve", odd, "--yes")
    resolved = run("slnd", "resolve", odd, "--result", "negative", "--yes")
    twice = run("slnd", "resolve", odd, "--result", "negative", "--yes")
    dry = run("slnd", "discard", sideless, "--dry-run")
    assert "would be discarded" in dry.stdout
    assert str(parked(bench)[0].parked_id) == sideless
    discarded = run("slnd", "discard", sideless, "--yes")
    wrong = run("slnd", "resolve", stranger, "--study", study, "--yes")
    nowhere = run("slnd", "resolve", stranger, "--yes")
    missing = run("slnd", "discard", "999", "--yes")

    assert (vague.exit_code, resolved.exit_code, twice.exit_code) == (2, 0, 4)
    assert (discarded.exit_code, wrong.exit_code, nowhere.exit_code) == (0, 4, 4)
    assert missing.exit_code == 3
    assert history(bench, study) == ["negative"]
    assert [one.parked_id for one in parked(bench)] == [int(stranger)]
    assert any("discarded by" in one for one in said(bench, study))
    assert f"side L: negative recorded by {getpass.getuser()}" in said(bench, study)


HEAD = "patient_id,side,result,study_uid,deposit,performed_on,source,correction\n"


@pytest.fixture
def write_csv(tmp_path):
    def write(text: str, codec: str = "utf-8"):
        path = tmp_path / "results.csv"
        path.write_bytes(text.encode(codec))
        return str(path)

    return write


def outcomes_of(done) -> list[str]:
    return [one["outcome"] for one in json.loads(done.stdout)["lines"]]


def test_a_file_is_imported_once(run, bench, study, slices, write_csv):
    patient = patient_of(slices)
    line = f"{patient},L,positive,{study},macro,2026-04-01,tumour board,\n"
    path = write_csv(HEAD + line)

    dry = run("slnd", "import", path, "--dry-run", "--json")
    before = history(bench, study)
    first = run("slnd", "import", path, "--yes", "--json")
    again = run("slnd", "import", path, "--yes", "--json")

    assert [one.exit_code for one in (dry, first, again)] == [0, 0, 0]
    assert before == []
    assert outcomes_of(dry) == outcomes_of(first) == ["recorded"]
    assert outcomes_of(again) == ["unchanged"]
    assert history(bench, study) == ["positive"]
    assert patient not in first.output


def test_a_line_without_study_belongs_to_the_newest_one_before(
    run, bench, study, slices, write_csv
):
    head = "patient_id;side;result;performed_on\n"
    text = f"{head}{patient_of(slices)};l;POSITIVE;2026-04-01\n"
    path = write_csv(text, "utf-8-sig")

    done = run("slnd", "import", path, "--source", "registry", "--yes")

    assert done.exit_code == 0, done.output
    assert "line 2: recorded" in done.stdout
    assert history(bench, study) == ["positive"]


def test_one_wrong_line_keeps_all_from_being_recorded(
    run, bench, study, slices, write_csv
):
    patient = patient_of(slices)
    lines = [
        f"{patient},L,positive,{study},,2026-04-01,board,",
        f"STRANGER-9,L,positive,{study},,2026-04-01,board,",
        f"{patient},R,positive,{study},,2026-04-01,board,",
        f"{patient},L,negative,{study},,2026-04-01,board,",
        f"{patient},L,maybe,{study},,2026-04-01,board,",
        f"{patient},L,positive,{study},itc,2026-04-01,board,",
        f"{patient},L,positive,{study},,2026-02-01,board,",
        f"{patient},L,positive,1.2.3,,2026-04-01,board,",
        f"{patient},L,positive,{study},,01.04.2026,board,",
        f"{patient},L,positive,{study},,2026-04-01,,",
        f"{patient},L,positive",
        ",L,positive,,,,board,",
    ]
    path = write_csv(HEAD + "\n".join(lines) + "\n")

    strict = run("slnd", "import", path, "--yes", "--json")
    nothing = history(bench, study)
    lenient = run("slnd", "import", path, "--yes", "--skip-refused", "--json")

    assert strict.exit_code == 4
    assert nothing == []
    assert outcomes_of(lenient) == ["recorded", *["refused"] * 11]
    assert history(bench, study) == ["positive"]
    for done in (strict, lenient):
        assert patient not in done.output
        assert "STRANGER-9" not in done.output


def test_the_opposite_in_a_file_needs_the_column_correction(
    run, bench, study, slices, write_csv
):
    patient = patient_of(slices)
    set_(run, study, patient, "positive")
    line = f"{patient},L,negative,{study},,2026-04-01,board,"

    plain = run("slnd", "import", write_csv(f"{HEAD}{line}\n"), "--yes")
    said_so = run("slnd", "import", write_csv(f"{HEAD}{line}yes\n"), "--yes")

    assert (plain.exit_code, said_so.exit_code) == (4, 0)
    assert "line 2: corrected" in said_so.stdout
    assert history(bench, study) == ["positive", "negative"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "patient_id,side\n",
        "patient_id,side,result,nonsense\n",
        "patient_id,side,result,side\n",
        '"unclosed',
        "\0\0\0",
    ],
)
def test_a_file_that_is_no_table_of_results_is_one_sentence(run, write_csv, text):
    done = run("slnd", "import", write_csv(text), "--yes")

    assert done.exit_code == 1
    assert done.stderr.startswith("sentinode: line 1")
