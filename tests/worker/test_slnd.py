"""Recording, matching, parking: the rules of every way in, on both databases."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from dicom_node import db, ledger
from dicom_node.db import now
from dicom_node.findings import Deposit, Laterality, Slnd, SlndResult
from dicom_node.study import StudyState, StudyUid
from tests import dicom_objects
from tests.pathology_messages import code, fields, order
from tests.pathology_site import history, parked, patient_of, said, send
from worker import outcomes
from worker import slnd as rules
from worker.parking import RETRY_AFTER
from worker.slnd import Change, Provenance, SlndRefusedError
from worker.tables import MessageRow
from worker.tasks.analysis import analyze
from worker.tasks.dispatch import sweep

L, R = Laterality.LEFT, Laterality.RIGHT
MRI = date(2026, 3, 4)
BY = Provenance("tester", correction=False)


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


def result(what: Slnd, **changes) -> SlndResult:
    return replace(SlndResult(what, None, None, "desk", now()), **changes)


def record(bench, uid, what, how=BY, side=L, **changes):
    with bench.sessions.begin() as session:
        return rules.record(session, uid, side, result(what, **changes), how)


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


@pytest.mark.parametrize(("day", "recorded"), [("20260402", True), ("20260403", False)])
def test_a_day_that_has_begun_in_the_east_is_no_future(
    bench, box, study, slices, day, recorded
):
    evening = replace(box, clock=lambda: datetime(2026, 4, 1, 16, tzinfo=UTC))

    send(evening, order(day=day), patient=patient_of(slices))

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


def test_of_a_side_without_a_case_the_patient_is_not_called_unknown_any_more(
    bench, box, slices, mark, source
):
    send(box, order(side="Right axilla"), patient=patient_of(slices))
    (before,) = parked(bench)
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    later = now() + RETRY_AFTER + timedelta(seconds=1)
    sweep(bench.sessions, bench.broker, bench.site.settings, later)

    (after,) = parked(bench)
    assert (before.reason, after.reason) == ("unknown_patient", "no_case")


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
    issued = replace(known, issuer_key=ledger.issuer_key(secret, "HOSPITAL A", patient))

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
