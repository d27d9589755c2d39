"""What comes late, from elsewhere, or by hand: through ledger, readers and reports."""

from datetime import timedelta

import pytest
from pydicom.uid import generate_uid

from dicom_node import ledger, outbox
from dicom_node.completion import QuietPeriods
from dicom_node.db import now
from dicom_node.findings import Carrier, Laterality
from dicom_node.ledger import Mark
from dicom_node.report.reading import read_report
from dicom_node.study import Peer, Reason, StudyState
from tests import dicom_objects
from tests.peers import dciodvfy
from worker import models as model_store
from worker import outcomes, queues
from worker.tasks.analysis import analyze
from worker.tasks.completeness import Place, count, examine
from worker.tasks.dispatch import sweep

SOON = timedelta(seconds=1)
NOBODY = Peer("NOBODY", "127.0.0.1", 9)


def turn(bench, source, *uids):
    """One sweep, then a worker that takes what is queued."""
    sweep(bench.sessions, bench.broker, bench.site.settings, now() + SOON)
    for uid in uids:
        analyze(uid, bench.site, source)


def documents(bench, uid):
    with bench.sessions() as session:
        return outbox.documents(session, bench.results(uid)[0].result_id)


def report_of(bench, uid):
    (path,) = (one.path for one in documents(bench, uid) if one.kind == "SR")
    path = bench.site.spool.absolute(path)
    assert dciodvfy(path) == []
    return dicom_objects.dcmread(path)


def deliveries(bench):
    with bench.sessions() as session:
        return outbox.deliveries(session)


def events(bench, uid):
    with bench.sessions() as session:
        return [one.what for one in ledger.events(session, uid)]


# Marks from another study


def test_a_mark_stored_under_another_study_counts_for_the_images_it_marks(
    bench, slices, mark, source
):
    uid = bench.receive(*slices)
    turn(bench, source, uid)
    before = bench.study(uid).reason
    notes = bench.receive(dicom_objects.in_another_study(mark))
    turn(bench, source, notes)
    turn(bench, source, uid)

    (result,) = bench.results(uid)
    assert before is Reason.NO_ROI
    assert bench.study(uid).state is StudyState.ANALYZED
    assert result.roi.carrier_sop_instance_uid == mark.SOPInstanceUID
    assert any(f"The mark came in another study, {notes}," in one for one in result.why)
    study = bench.study(notes)
    assert (study.state, study.reason) == (
        StudyState.IGNORED,
        Reason.ANNOTATES_OTHER_STUDY,
    )
    assert bench.results(notes) == []
    report = report_of(bench, uid)
    assert report.StudyInstanceUID == uid
    (other,) = report.PertinentOtherEvidenceSequence
    assert other.StudyInstanceUID == notes


def test_a_mark_that_is_there_before_its_images_waits_for_them(
    bench, slices, mark, source
):
    notes = bench.receive(dicom_objects.in_another_study(mark))
    turn(bench, source, notes)
    waiting = bench.study(notes)
    uid = bench.receive(*slices)
    turn(bench, source, uid)

    assert waiting.reason is Reason.ROI_IMAGE_MISSING
    assert len(bench.results(uid)) == 1
    assert bench.study(notes).reason is Reason.ANNOTATES_OTHER_STUDY


def test_a_mark_of_another_patient_is_held_and_never_used(bench, slices, mark, source):
    uid = bench.receive(*slices)
    turn(bench, source, uid)
    theirs = dicom_objects.in_another_study(mark)
    theirs.PatientID = "SOMEBODY-ELSE"
    notes = bench.receive(theirs)
    turn(bench, source, notes)
    turn(bench, source, uid)

    assert bench.study(notes).reason is Reason.PATIENT_MISMATCH
    assert bench.study(uid).reason is Reason.NO_ROI
    assert bench.results(uid) == []


# Rectangles set by hand


def set_by_hand(bench, image, box, uid):
    mark = Mark(uid, Laterality.LEFT, image.SOPInstanceUID, 1, box, None, "root", now())
    with bench.sessions.begin() as session:
        ledger.set_mark(session, mark)


def test_a_rectangle_set_by_hand_gives_a_report_without_a_carrier(
    bench, slices, source
):
    uid = bench.receive(*slices)
    turn(bench, source, uid)
    set_by_hand(bench, slices[4], dicom_objects.BOX, uid)
    turn(bench, source, uid)

    (result,) = bench.results(uid)
    assert result.roi.carrier is Carrier.MANUAL
    assert result.roi.carrier_sop_instance_uid is None
    assert result.roi.box == dicom_objects.BOX
    assert "The rectangle was set by hand, by root." in result.why
    report = report_of(bench, uid)
    assert "PertinentOtherEvidenceSequence" not in report
    assert read_report(report).laterality is Laterality.LEFT


def test_a_rectangle_taken_back_holds_the_study(bench, slices, source):
    uid = bench.receive(*slices)
    set_by_hand(bench, slices[4], dicom_objects.BOX, uid)
    turn(bench, source, uid)
    set_by_hand(bench, slices[4], None, uid)
    turn(bench, source, uid)

    assert len(bench.results(uid)) == 1
    assert bench.study(uid).state is StudyState.HELD


# Late things


def test_an_identical_study_sent_again_changes_nothing(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    turn(bench, source, uid)
    before = (events(bench, uid), len(deliveries(bench)), bench.study(uid))
    bench.receive(*slices, mark)
    turn(bench, source, uid)

    assert (events(bench, uid), len(deliveries(bench)), bench.study(uid)) == before
    assert len(bench.results(uid)) == 1


def test_a_revised_rectangle_gives_a_new_report_that_names_the_old_one(
    bench, slices, source
):
    first = dicom_objects.sr_rectangle(slices[4], tracking_uid="1.2.3.4")
    uid = bench.receive(*slices, first)
    turn(bench, source, uid)
    old = report_of(bench, uid)
    later = dicom_objects.AT + timedelta(hours=3)
    box = (22.0, 31.0, 41.0, 49.0)
    bench.receive(
        dicom_objects.sr_rectangle(slices[4], box, at=later, tracking_uid="1.2.3.4")
    )
    turn(bench, source, uid)

    newest, oldest = bench.results(uid)
    assert newest.roi.box == box
    assert newest.supersedes == oldest.result_id
    new = report_of(bench, uid)
    assert read_report(new).predecessors == (old.SOPInstanceUID,)
    assert new.SeriesInstanceUID == old.SeriesInstanceUID
    assert len(deliveries(bench)) == 4


def test_a_late_phase_supersedes_what_was_analysed_as_marked(bench, slices, source):
    mark = dicom_objects.gsps_rectangle([slices[7]])  # on the third phase
    uid = bench.receive(*slices[6:], mark)
    turn(bench, source, uid)
    bench.receive(*slices[:6])
    turn(bench, source, uid)

    newest, oldest = bench.results(uid)
    assert oldest.phase == "as marked"
    assert newest.phase == "post-contrast 1"
    assert newest.source_sop_instance_uid == slices[4].SOPInstanceUID
    assert newest.supersedes == oldest.result_id


def test_a_rectangle_withdrawn_by_an_empty_version_holds_the_study(
    bench, slices, source
):
    first = dicom_objects.sr_rectangle(slices[4])
    uid = bench.receive(*slices, first)
    turn(bench, source, uid)
    empty = dicom_objects.sr_rectangle(slices[4])
    empty.ContentSequence = []
    reference = dicom_objects.Dataset()
    reference.ReferencedSOPClassUID = first.SOPClassUID
    reference.ReferencedSOPInstanceUID = first.SOPInstanceUID
    series = dicom_objects.Dataset()
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ReferencedSOPSequence = [reference]
    study = dicom_objects.Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = uid, [series]
    empty.PredecessorDocumentsSequence = [study]
    bench.receive(empty)
    turn(bench, source, uid)

    assert len(bench.results(uid)) == 1
    assert bench.study(uid).state is StudyState.HELD
    assert bench.study(uid).detail


def test_a_key_object_selection_that_comes_late_changes_no_result(
    bench, slices, mark, source
):
    uid = bench.receive(*slices, mark)
    turn(bench, source, uid)
    bench.receive(dicom_objects.key_object(slices[4]))
    turn(bench, source, uid)

    assert bench.study(uid).state is StudyState.ANALYZED
    assert len(bench.results(uid)) == 1
    assert len(deliveries(bench)) == 2


def test_another_patient_id_holds_the_study_and_freezes_its_deliveries(
    bench, slices, mark, source
):
    uid = bench.receive(*slices, mark)
    turn(bench, source, uid)
    stranger = dicom_objects.reread(slices[0])
    stranger.SOPInstanceUID = generate_uid()
    stranger.file_meta.MediaStorageSOPInstanceUID = stranger.SOPInstanceUID
    stranger.PatientID = "SOMEBODY-ELSE"
    bench.receive(stranger)
    bench.sent.clear()
    turn(bench, source, uid)

    assert bench.study(uid).reason is Reason.PATIENT_MISMATCH
    assert len(bench.results(uid)) == 1
    assert bench.sent == []


# Early ends of the wait, and counts


@pytest.fixture
def patient(bench):
    """A site whose studies must be quiet for long, with its models in service."""
    bench.quiet = QuietPeriods(timedelta(hours=1))
    with bench.sessions.begin() as session:
        for model in model_store.installed(bench.site.settings.models):
            identity = (model.name, model.version, model.weights_sha256)
            outcomes.activate(session, model.stage, identity, "test", now())
    return bench


def place(bench, **changes):
    settings = bench.site.settings.model_copy(update=changes)
    return Place(bench.sessions, bench.site.spool, settings)


def test_what_the_model_needs_ends_the_wait_and_the_rest_gives_no_second_result(
    patient, slices, mark, source
):
    rest = dicom_objects.mr_slice(
        series_uid="1.2.3.99",
        StudyInstanceUID=slices[0].StudyInstanceUID,
        ScanningSequence="SE",
        SeriesDescription="t2_tse",
    )
    uid = patient.receive(*slices, mark)
    sweep(patient.sessions, patient.broker, patient.site.settings, now())
    asked = list(patient.sent)
    assert examine(uid, place(patient))
    turn(patient, source, uid)
    state = patient.study(uid).state
    patient.receive(rest)
    patient.queue(uid)
    turn(patient, source, uid)

    assert asked == [(queues.EXAMINE, [uid])]
    assert state is StudyState.ANALYZED
    assert len(patient.results(uid)) == 1
    assert len(deliveries(patient)) == 2


@pytest.mark.parametrize("lacking", ["a slice", "the phase", "the rectangle"])
def test_the_wait_goes_on_while_something_is_missing(patient, slices, mark, lacking):
    there = {
        "a slice": [*slices[:8], mark],
        "the phase": [*slices[3:6], mark],
        "the rectangle": slices,
    }[lacking]
    if lacking == "a slice":
        there = [*slices[:3], *slices[4:6], dicom_objects.gsps_rectangle([slices[1]])]
    uid = patient.receive(*there)
    assert not examine(uid, place(patient))
    assert patient.study(uid).state is StudyState.RECEIVING


def test_a_site_may_switch_the_early_end_off(patient, slices, mark):
    patient.receive(*slices, mark)
    settings = patient.site.settings.model_copy(update={"complete_early": False})
    sweep(patient.sessions, patient.broker, settings, now())
    assert patient.sent == []


def test_an_archive_that_does_not_answer_ends_no_wait_early(patient, slices, mark):
    uid = patient.receive(*slices, mark)
    silent = place(patient, query=NOBODY, query_timeout=SOON)
    assert not examine(uid, silent)
    assert examine(uid, place(patient))


def test_an_archive_that_never_answers_delays_and_does_not_stop(
    bench, slices, mark, source
):
    uid = bench.receive(*slices, mark)
    silent = place(bench, query=NOBODY, query_timeout=SOON)
    at = now() + SOON
    for _ in range(3):
        sweep(bench.sessions, bench.broker, silent.settings, at)
        count([uid], silent)
        at += timedelta(minutes=1)
    sweep(bench.sessions, bench.broker, silent.settings, at)

    assert bench.sent == [(queues.COUNT, [[uid]])] * 3 + [(queues.ANALYZE, [uid])]
    assert events(bench, uid)[-1] == "warning"
    assert len(analyze(uid, bench.site, source)) == 1
