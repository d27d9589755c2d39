"""Recording, matching, parking: the rules of every way in, on both databases."""

import json
from dataclasses import replace
from datetime import date, timedelta

import pytest
from click.testing import CliRunner

from dicom_node import db, ledger, vocabulary
from dicom_node.db import now
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from dicom_node.settings import patient_secret
from dicom_node.study import StudyState, StudyUid
from tests import dicom_objects
from tests.pathology_messages import code, fields, message, order
from worker import inbox as inboxes
from worker import outcomes, parking
from worker import slnd as rules
from worker.cli import main
from worker.inbox import Inbox
from worker.parking import RETRY_AFTER
from worker.slnd import Change, Provenance, SlndRefusedError
from worker.tables import MessageRow
from worker.tasks.analysis import analyze
from worker.tasks.dispatch import sweep

L, R = Laterality.LEFT, Laterality.RIGHT
MRI = date(2026, 3, 4)
BY = Provenance("tester", correction=False)
WINDOW = timedelta(days=180)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, tmp_path):
    """What the bench of this module runs on."""
    if request.param == "sqlite":
        return None
    cluster = request.getfixturevalue("postgres")
    return cluster.create(template=cluster.migrated)


@pytest.fixture
def settings(settings, database_url):
    return settings.model_copy(update={"database_url": database_url})


@pytest.fixture
def study(bench, slices, mark, source):
    """An analysed study with one case, the left one."""
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid


@pytest.fixture
def box(bench):
    return Inbox(
        sessions=bench.sessions,
        secret=patient_secret(bench.site.settings),
        vocabulary=vocabulary.default(),
        window=WINDOW,
        issuers={},
        processing_id="P",
        max_bytes=65536,
    )


def result(what: Slnd, **changes) -> SlndResult:
    return replace(SlndResult(what, None, None, "desk", now()), **changes)


def record(bench, uid, what, how=BY, side=L, **changes):
    with bench.sessions.begin() as session:
        return rules.record(session, uid, side, result(what, **changes), how)


def history(bench, uid):
    with bench.sessions() as session:
        return [one.slnd.result for one in outcomes.slnd_history(session, uid)]


def said(bench, uid):
    with bench.sessions() as session:
        return [one.detail for one in ledger.events(session, uid) if one.what == "slnd"]


def parked(bench):
    with bench.sessions() as session:
        return parking.parked(session, waiting_only=True)


def patient_of(slices) -> str:
    return str(slices[0].PatientID)


def send(box, *orders, **changes) -> bytes:
    return inboxes.receive(box, message(*orders, **changes))


def text(answer: bytes) -> str:
    return fields(answer)["MSA"][3]


def test_the_day_of_the_mri_is_kept_with_the_case(bench, study):
    with bench.sessions() as session:
        (case,) = outcomes.cases(session, study)

    assert case.studied_on == MRI


def test_a_result_is_recorded_once_with_an_event_and_a_new_turn(bench, study):
    first = record(bench, study, Slnd.POSITIVE, deposit=Deposit.MACRO)
    again = record(bench, study, Slnd.POSITIVE)

    assert (first.change, again.change) == (Change.RECORDED, Change.UNCHANGED)
    assert again.slnd_id == first.slnd_id
    assert history(bench, study) == ["positive"]
    assert said(bench, study) == ["side L: positive (macro) recorded by tester"]
    assert bench.study(study).state is StudyState.QUEUED


def test_the_opposite_needs_to_be_a_correction(bench, study):
    record(bench, study, Slnd.POSITIVE)

    with pytest.raises(SlndRefusedError, match="correction"):
        record(bench, study, Slnd.NEGATIVE)
    corrected = record(bench, study, Slnd.NEGATIVE, replace(BY, correction=True))

    assert (corrected.change, corrected.before) == (Change.CORRECTED, "positive")
    assert history(bench, study) == ["positive", "negative"]


def test_a_withdrawal_needs_a_result_and_is_recorded_once(bench, study):
    with pytest.raises(SlndRefusedError, match="withdrawn"):
        record(bench, study, Slnd.WITHDRAWN)
    record(bench, study, Slnd.NEGATIVE)
    changes = [record(bench, study, Slnd.WITHDRAWN).change for _ in range(2)]
    record(bench, study, Slnd.POSITIVE)

    assert changes == [Change.WITHDRAWN, Change.UNCHANGED]
    assert history(bench, study) == ["negative", "withdrawn", "positive"]


def test_a_dissection_before_the_mri_and_another_side_are_refused(bench, study):
    with pytest.raises(SlndRefusedError, match="before the MRI"):
        record(bench, study, Slnd.POSITIVE, performed_on=MRI - timedelta(days=1))
    with pytest.raises(SlndRefusedError, match="no analysed case on side R"):
        record(bench, study, Slnd.POSITIVE, side=R)

    assert history(bench, study) == []


def test_the_pathway_over_weeks_by_messages(bench, box, study, slices, source):
    patient = patient_of(slices)
    awaiting = bench.results(study)[0]

    positive = send(box, order(), patient=patient)
    analyze(study, bench.site, source)
    done = bench.results(study)[0]
    corrected = send(box, order("negative", "C"), patient=patient, control_id="M2")
    analyze(study, bench.site, source)
    negative = bench.results(study)[0]
    withdrawn = send(box, order("", "W"), patient=patient, control_id="M3")
    analyze(study, bench.site, source)
    again = bench.results(study)[0]

    assert [code(one) for one in (positive, corrected, withdrawn)] == ["AA"] * 3
    assert text(positive) == "1 recorded"
    assert text(corrected) == "1 corrected"
    assert text(withdrawn) == "1 withdrawn"
    assert done.pathway in {"nsln_low_risk", "nsln_high_risk"}
    assert done.discordant is (awaiting.stages[0].risk == "low")
    assert negative.pathway == "sln_negative"
    assert negative.supersedes == done.result_id
    assert again.pathway == awaiting.pathway
    assert [one.version for one in bench.results(study)] == [4, 3, 2, 1]
    assert done.slnd.source == "HL7 ORU LIS HOSP"
    assert said(bench, study)[0] == "side L: positive recorded by HL7"


def test_a_repeated_message_is_answered_alike_and_changes_nothing(
    bench, box, study, slices
):
    patient = patient_of(slices)

    first = send(box, order(), patient=patient)
    again = send(box, order(), patient=patient, at="20260402080000")
    other = send(box, order("negative"), patient=patient)

    assert fields(first)["MSA"] == fields(again)["MSA"]
    assert (code(other), fields(other)["ERR"][3][:3]) == ("AE", "205")
    assert history(bench, study) == ["positive"]
    assert "another HL7 message" in said(bench, study)[-1]
    with bench.sessions() as session:
        row = session.query(MessageRow).one()
    assert row.conflicts == 1
    assert "M1" not in (row.control_key, row.content_key)


def test_the_same_control_id_of_another_sender_is_another_message(
    box, bench, study, slices
):
    send(box, order(), patient=patient_of(slices))

    answer = send(box, order(), patient=patient_of(slices), application="LIS2")

    assert text(answer) == "1 unchanged"


def test_a_preliminary_result_is_refused_and_its_final_one_taken(
    bench, box, study, slices
):
    patient = patient_of(slices)

    preliminary = send(box, order(status="P"), patient=patient)
    final = send(box, order(), patient=patient, control_id="M2")

    assert code(preliminary) == "AE"
    assert code(final) == "AA"
    assert history(bench, study) == ["positive"]


def test_another_message_type_is_rejected_and_not_kept(bench, box):
    answer = send(box, kind="ADT^A01")

    assert code(answer) == "AR"
    with bench.sessions() as session:
        assert session.query(MessageRow).count() == 0


@pytest.mark.parametrize(
    ("orders", "reason"),
    [
        ((order("odd words"),), "result_unknown"),
        ((order("positive~negative"),), "result_contradicts"),
        ((order(side="axilla"),), "side_unknown"),
        ((order(side="right"),), "no_case"),
        ((order(day=""),), "date_unknown"),
        ((order(day="29990101"),), "date_unknown"),
        ((order(day="20260303"),), "before_mri"),
        ((order(day="20261001"),), "outside_window"),
        ((order("", "W"),), "nothing_to_withdraw"),
    ],
)
def test_what_fits_no_case_is_parked_and_accepted(
    bench, box, study, slices, orders, reason
):
    answer = send(box, *orders, patient=patient_of(slices))

    (waiting,) = parked(bench)
    assert code(answer) == "AA"
    assert text(answer) == f"1 parked ({reason})"
    assert waiting.reason == reason
    assert history(bench, study) == []
    assert "odd" not in waiting.detail
    assert said(bench, study) == [f"result {waiting.parked_id} parked: {reason}"]


@pytest.mark.parametrize(
    ("day", "recorded"),
    [("20260304", True), ("20260831", True), ("20260901", False)],
)
def test_the_window_begins_on_the_day_of_the_mri(
    bench, box, study, slices, day, recorded
):
    send(box, order(day=day), patient=patient_of(slices))

    assert (history(bench, study) == ["positive"]) is recorded


def test_a_final_result_does_not_turn_a_recorded_one(bench, box, study, slices):
    patient = patient_of(slices)
    send(box, order(), patient=patient)

    send(box, order("negative"), patient=patient, control_id="M2")

    (waiting,) = parked(bench)
    assert waiting.reason == "contradicts_record"
    assert history(bench, study) == ["positive"]


def test_an_unknown_patient_waits_until_the_study_is_analysed(
    bench, box, slices, mark, source
):
    send(box, order(), patient=patient_of(slices))
    (waiting,) = parked(bench)
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    later = now() + RETRY_AFTER + timedelta(seconds=1)
    sweep(bench.sessions, bench.broker, bench.site.settings, later)
    still = parked(bench)
    analyze(uid, bench.site, source)

    sweep(bench.sessions, bench.broker, bench.site.settings, later)
    analyze(uid, bench.site, source)

    assert waiting.reason == "unknown_patient"
    assert len(still) == 1
    assert parked(bench) == []
    assert history(bench, uid) == ["positive"]
    assert bench.results(uid)[0].slnd.result == "positive"


def test_a_result_and_its_withdrawal_that_both_waited_come_in_order(
    bench, box, slices, mark, source
):
    patient = patient_of(slices)
    send(box, order(), patient=patient)
    send(box, order("", "W"), patient=patient, control_id="M2")
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)

    later = now() + RETRY_AFTER + timedelta(seconds=1)
    sweep(bench.sessions, bench.broker, bench.site.settings, later)

    assert history(bench, uid) == ["positive", "withdrawn"]


def second_study(bench, slices, source, day: str) -> StudyUid:
    """Another MRI of the same patient."""
    made = dicom_objects.fresh_study(f"second {day}")
    for one in made:
        one.PatientID, one.StudyDate = slices[0].PatientID, day
    uid = bench.receive(*made, dicom_objects.gsps_rectangle([made[4]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid


def test_the_newest_study_before_the_dissection_is_meant(
    bench, box, study, slices, source
):
    newer = second_study(bench, slices, source, "20260320")
    second_study(bench, slices, source, "20260420")

    send(box, order(), patient=patient_of(slices))

    assert history(bench, newer) == ["positive"]
    assert history(bench, study) == []


def test_two_studies_of_one_day_are_ambiguous(bench, box, study, slices, source):
    second_study(bench, slices, source, "20260304")

    send(box, order(), patient=patient_of(slices))

    assert [one.reason for one in parked(bench)] == ["ambiguous"]


def test_a_correction_stays_with_the_case_that_has_the_result(
    bench, box, study, slices, source
):
    send(box, order(), patient=patient_of(slices))
    newer = second_study(bench, slices, source, "20260320")

    answer = send(
        box, order("negative", "C"), patient=patient_of(slices), control_id="M2"
    )

    assert text(answer) == "1 corrected"
    assert history(bench, study) == ["positive", "negative"]
    assert history(bench, newer) == []


def test_an_issuer_that_differs_is_another_patient(bench, box, study, slices):
    secret, patient = box.secret, patient_of(slices)
    with bench.sessions() as session:
        known = ledger.study(session, study)
    issued = replace(
        known, issuer_key=ledger.issuer_key(secret, "HOSPITAL A", patient)
    )

    def may_be(*issuers):
        return rules.keys_of(secret, patient, issuers).may_be(issued)

    assert may_be()
    assert may_be("HOSP", "HOSPITAL A")
    assert not may_be("HOSP")
    assert not rules.keys_of(secret, "OTHER", ["HOSPITAL A"]).may_be(issued)


def test_a_database_that_is_away_is_answered_and_nothing_is_promised(box):
    engine = db.connect("postgresql+psycopg://nobody@127.0.0.1:9/none")
    away = replace(box, sessions=db.writing(engine))

    answer = send(away, order())

    assert code(answer) == "AR"
    assert fields(answer)["ERR"][3].startswith("207")


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
    text = f"patient_id;side;result;performed_on\n{patient_of(slices)};l;POSITIVE;2026-04-01\n"
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
