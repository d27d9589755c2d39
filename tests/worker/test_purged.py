"""The clinical pathway goes on after the images were purged."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage
from sqlalchemy import delete

from dicom_node import kept, ledger, outbox, purge
from dicom_node.db import now
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Laterality, Slnd, SlndResult, StageStatus
from dicom_node.study import Reason, StudyState
from tests import dicom_objects
from worker import keeping, outcomes, retention
from worker.retention import Store
from worker.tables import KeptRow
from worker.tasks.analysis import analyze

DAY = timedelta(days=1)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request) -> str | None:
    if request.param == "sqlite":
        return None
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def store(bench) -> Store:
    return Store(bench.sessions, bench.site.spool)


@pytest.fixture
def analysed(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid


def requeue(bench, uid, why="test") -> None:
    with bench.sessions.begin() as session:
        ledger.requeue(session, uid, now(), why)


def dissect(bench, uid, result: Slnd, side=Laterality.LEFT) -> None:
    """Record a result as `slnd set` does."""
    slnd = SlndResult(result, None, None, "pathology", now())
    requeue(bench, uid)
    with bench.sessions.begin() as session:
        outcomes.record_slnd(session, uid, side, slnd, "test")


def files(bench) -> list[str]:
    root = bench.site.spool.root
    return sorted(
        path.relative_to(root).parts[0] + path.suffix
        for path in root.rglob("*")
        if path.is_file()
    )


def report_of(bench, result_id: str):
    with bench.sessions() as session:
        documents = outbox.documents(session, result_id)
    spool = bench.site.spool
    return [one.kind for one in documents], dcmread(
        BytesIO(spool.read_document(documents[0].path))
    )


def test_crop_and_slice_are_kept_with_the_result(bench, analysed, slices):
    (result,) = bench.results(analysed)
    with bench.sessions() as session:
        record = keeping.of(session, result.result_id)
        missing = keeping.missing(session, bench.site.spool)

    assert record is not None
    assert missing == []
    assert [path.suffix for path in record.paths] == [".crop", ".dcm"]
    names = [str(path) for path, _ in kept.files(bench.site.spool)]
    assert len(names) == 2
    assert not any(slices[0].PatientID in name for name in names)
    assert result.code_version
    assert result.stages[0].torch_version
    assert result.stages[0].batch == "1x3x64x64"
    assert result.stages[0].threads


def test_a_purge_leaves_the_mark_the_documents_the_crop_and_the_slice(
    bench, analysed, store
):
    found = retention.purge_study(store, analysed, now())

    assert found.files == 9
    assert files(bench) == [
        *("documents.dcm", "documents.dcm", "instances.dcm"),
        *("kept.crop", "kept.dcm"),
    ]
    assert bench.study(analysed).state is StudyState.ANALYZED


def test_a_positive_dissection_after_a_purge_runs_stage_two(
    bench, analysed, store, source
):
    (first,) = bench.results(analysed)
    before, _ = report_of(bench, first.result_id)
    retention.purge_study(store, analysed, now())
    dissect(bench, analysed, Slnd.POSITIVE)

    (result_id,) = analyze(analysed, bench.site, source)

    second, _ = bench.results(analysed)
    kinds, report = report_of(bench, result_id)
    cited = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    _, previous = report_of(bench, first.result_id)
    assert second.version == 2
    assert second.supersedes == first.result_id
    assert second.stages[1].status is StageStatus.DONE
    assert second.stages[0].probability == first.stages[0].probability
    assert second.input_sha256 == first.input_sha256
    assert before == kinds == ["SR", "SC"]
    assert cited.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == (
        previous.SOPInstanceUID
    )
    assert report.PatientName == previous.PatientName
    assert report.SeriesInstanceUID == previous.SeriesInstanceUID


def test_after_a_purge_the_same_numbers_come_out_as_before_it(
    bench, slices, mark, source, store
):
    """Stage II from the kept slice is stage II from the study, bit by bit."""
    probabilities = []
    for purged in (False, True):
        study = dicom_objects.fresh_study(f"purged {purged}")
        uid = bench.receive(*study, dicom_objects.gsps_rectangle([study[4]]))
        bench.queue(uid)
        analyze(uid, bench.site, source)
        if purged:
            retention.purge_study(store, uid, now())
        dissect(bench, uid, Slnd.POSITIVE)
        analyze(uid, bench.site, source)
        probabilities.append([s.probability for s in bench.results(uid)[0].stages])

    assert probabilities[0] == probabilities[1]


def test_negative_and_withdrawn_follow_after_a_purge(bench, analysed, store, source):
    (first,) = bench.results(analysed)
    retention.purge_study(store, analysed, now())
    pathways = []
    for result in (Slnd.NEGATIVE, Slnd.WITHDRAWN, Slnd.POSITIVE):
        dissect(bench, analysed, result)
        analyze(analysed, bench.site, source)
        newest = bench.results(analysed)[0]
        pathways.append(newest.pathway)
        retention.purge_study(store, analysed, now())

    assert pathways[0] == "sln_negative"
    assert pathways[1] == first.pathway
    assert pathways[2] in {"nsln_low_risk", "nsln_high_risk"}
    assert newest.version == 4
    with bench.sessions() as session:
        records = keeping.of_study(session, analysed)
        assert keeping.missing(session, bench.site.spool) == []
    assert [one.released_at is None for one in records.values()].count(True) == 1


def test_reprocessing_a_purged_study_works_from_what_was_kept(
    bench, analysed, store, source
):
    retention.purge_study(store, analysed, now())
    requeue(bench, analysed)
    with bench.sessions.begin() as session:
        outcomes.mark_stale(session, analysed)

    analyze(analysed, bench.site, source)

    second, first = bench.results(analysed)
    assert second.version == 2
    assert second.stages[0].probability == first.stages[0].probability
    assert report_of(bench, second.result_id)[0] == ["SR", "SC"]


def test_a_model_for_another_phase_needs_the_images(bench, analysed, store, source):
    retention.purge_study(store, analysed, now())
    requeue(bench, analysed)
    with bench.sessions.begin() as session:
        outcomes.mark_stale(session, analysed)
    cascade = source(None)
    manifest = cascade.sln.manifest
    other = manifest.model_copy(
        update={
            "preprocessing": manifest.preprocessing.model_copy(
                update={"phase": "post-2"}
            )
        }
    )
    changed = replace(cascade, sln=replace(cascade.sln, manifest=other))

    analyze(analysed, bench.site, lambda _sessions: changed)

    study = bench.study(analysed)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.IMAGES_PURGED)
    assert "post-contrast 2" in study.detail


def test_an_unchanged_purged_study_keeps_its_result(bench, analysed, store, source):
    retention.purge_study(store, analysed, now())
    requeue(bench, analysed)

    assert analyze(analysed, bench.site, source) == ()
    assert bench.study(analysed).state is StudyState.ANALYZED


def test_a_new_rectangle_after_a_purge_holds_until_the_images_come_again(
    bench, analysed, store, source, slices
):
    retention.purge_study(store, analysed, now())
    larger = dicom_objects.gsps_rectangle([slices[4]], (14.0, 20.0, 50.0, 60.0))
    bench.receive(larger)
    bench.queue(analysed)
    analyze(analysed, bench.site, source)
    held = bench.study(analysed)

    bench.receive(*slices)
    bench.queue(analysed)
    analyze(analysed, bench.site, source)

    assert (held.state, held.reason) == (StudyState.HELD, Reason.IMAGES_PURGED)
    assert "again from the PACS" in held.detail
    assert bench.study(analysed).state is StudyState.ANALYZED
    assert bench.results(analysed)[0].version == 2
    assert bench.results(analysed)[0].candidates == 2


def test_a_dissection_counts_although_a_rectangle_waits_for_its_images(
    bench, analysed, store, source, slices
):
    retention.purge_study(store, analysed, now())
    bench.receive(
        dicom_objects.gsps_rectangle([slices[4]], (14.0, 20.0, 50.0, 60.0), "B^C")
    )
    bench.queue(analysed)
    analyze(analysed, bench.site, source)
    dissect(bench, analysed, Slnd.POSITIVE)

    analyze(analysed, bench.site, source)
    analyze(analysed, bench.site, source)

    assert bench.results(analysed)[0].stages[1].status is StageStatus.DONE
    assert bench.study(analysed).reason is Reason.IMAGES_PURGED


def test_a_late_image_or_report_does_not_disturb_a_purged_study(
    bench, analysed, store, source, slices
):
    retention.purge_study(store, analysed, now())
    late = dicom_objects.mr_slice(series_uid="1.2.3.99", series_number=44)
    bench.receive(late, slices[0])
    bench.queue(analysed)

    assert analyze(analysed, bench.site, source) == ()
    assert bench.study(analysed).state is StudyState.ANALYZED


def test_a_late_text_report_does_not_hold_a_purged_study(
    bench, analysed, store, source, slices
):
    """A radiologist's report has no coordinates: nothing waits for the images."""
    retention.purge_study(store, analysed, now())
    report = dicom_objects.sr_rectangle(slices[4])
    report.ContentSequence = []
    report.SOPClassUID = BasicTextSRStorage
    report.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    bench.receive(report)
    bench.queue(analysed)

    assert analyze(analysed, bench.site, source) == ()
    assert bench.study(analysed).state is StudyState.ANALYZED


def test_a_study_without_a_result_needs_its_images(bench, slices, store, source, mark):
    uid = bench.receive(*slices)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    retention.purge_study(store, uid, now())
    bench.receive(mark)
    bench.queue(uid)

    analyze(uid, bench.site, source)
    held = bench.study(uid)
    bench.receive(*slices)
    bench.queue(uid)
    analyze(uid, bench.site, source)

    assert held.reason is Reason.IMAGES_PURGED
    assert bench.study(uid).state is StudyState.ANALYZED


def two_spots(spot: int):
    """A slice with a spot in each of the two rectangles."""
    one = dicom_objects.pixels(spot=spot)
    return np.maximum(one, np.roll(one, 58, axis=1))


def test_two_sides_of_a_purged_study_go_on_each_by_itself(bench, slices, source, store):
    """Both breasts lie in one slice; each has a rectangle and a case of its own."""
    wide = [
        dicom_objects.mr_slice(
            series_uid=f"1.2.826.0.1.3680043.8.498.20{phase:02}",
            series_number=5 + phase,
            acquisition_number=phase + 1,
            position=(-56.0, -60.0, 0.0),
            image=two_spots(700 if phase else 100),
        )
        for phase in range(3)
    ]
    left = dicom_objects.gsps_rectangle([wide[1]], (80.0, 30.0, 100.0, 50.0))
    right = dicom_objects.gsps_rectangle([wide[1]], (20.0, 30.0, 44.0, 50.0))
    right.SeriesInstanceUID = "1.2.3.4.77"
    uid = bench.receive(*wide, left, right)
    bench.queue(uid)
    assert len(analyze(uid, bench.site, source)) == 2
    retention.purge_study(store, uid, now())
    with bench.sessions() as session:
        assert len(keeping.of_study(session, uid)) == 2
    assert files(bench).count("kept.dcm") == 1
    dissect(bench, uid, Slnd.POSITIVE, Laterality.RIGHT)

    (result_id,) = analyze(uid, bench.site, source)

    newest = {case.laterality: case.newest for case in _cases(bench, uid)}
    assert newest[Laterality.RIGHT].result_id == result_id
    assert newest[Laterality.LEFT].version == 1
    assert newest[Laterality.RIGHT].stages[1].status is StageStatus.DONE


def _cases(bench, uid):
    with bench.sessions() as session:
        return outcomes.cases(session, uid)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_without_its_slice_a_case_says_what_is_missing(
    bench, analysed, store, source, damage
):
    retention.purge_study(store, analysed, now())
    (path,) = (p for p, _ in kept.files(bench.site.spool) if p.suffix == ".dcm")
    file = bench.site.spool.absolute(path)
    content = file.read_bytes()
    file.unlink()
    if damage == "changed":
        file.write_bytes(content[:-2] + b"\x00\x01")
    dissect(bench, analysed, Slnd.POSITIVE)

    analyze(analysed, bench.site, source)

    study = bench.study(analysed)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.IMAGES_PURGED)
    assert "Side L" in study.detail
    assert "again from the PACS" in study.detail
    with bench.sessions() as session:
        assert len(keeping.missing(session, bench.site.spool)) == (damage == "missing")


def test_what_is_kept_can_be_given_up(bench, analysed, store, source):
    found = retention.purge_study(store, analysed, now(), with_kept=True)
    dissect(bench, analysed, Slnd.NEGATIVE)
    analyze(analysed, bench.site, source)

    assert found.files == 9
    assert "kept.crop" not in files(bench)
    assert "kept.dcm" not in files(bench)
    assert bench.study(analysed).reason is Reason.IMAGES_PURGED
    with bench.sessions() as session:
        assert "released" in [one.what for one in ledger.events(session, analysed)]


def test_a_result_from_before_slices_were_kept_gets_its_slice_kept(
    bench, analysed, store, source
):
    with bench.sessions.begin() as session:
        for record in keeping.of_study(session, analysed).values():
            session.execute(delete(KeptRow))
            bench.site.spool.remove(record.paths)
    retention.purge_study(store, analysed, now())
    dissect(bench, analysed, Slnd.POSITIVE)

    assert len(analyze(analysed, bench.site, source)) == 1


def test_a_study_whose_slice_is_missing_is_not_purged(bench, analysed, store, slices):
    with bench.sessions() as session:
        (result,) = outcomes.results(session, analysed)
        analysed_slice = ledger.instance(session, result.source_sop_instance_uid)
    bench.site.spool.remove([analysed_slice.path])

    with pytest.raises(UnreadableObjectError):
        retention.purge_study(store, analysed, now())

    with bench.sessions() as session:
        assert purge.purged(session, analysed) is None


def test_the_sweep_purges_by_age_and_only_when_it_is_told(
    bench, analysed, store, slices
):
    young = bench.receive(*dicom_objects.fresh_study("young"))

    assert retention.sweep(store, None, now() + 100 * DAY) == 0
    assert retention.sweep(store, 30 * DAY, now() + 29 * DAY) == 0
    assert retention.sweep(store, 30 * DAY, now() + 31 * DAY) == 1
    assert retention.sweep(store, 30 * DAY, now() + 31 * DAY) == 0

    with bench.sessions() as session:
        assert purge.purged(session, analysed) is not None
        assert purge.purged(session, young) is None  # it still receives


def test_a_missing_slice_does_not_stop_the_sweep(bench, analysed, store, source):
    other = dicom_objects.fresh_study("other")
    uid = bench.receive(*other, dicom_objects.gsps_rectangle([other[4]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    (result,) = bench.results(analysed)
    with bench.sessions() as session:
        gone = ledger.instance(session, result.source_sop_instance_uid)
    bench.site.spool.remove([gone.path])

    assert retention.sweep(store, DAY, now() + 2 * DAY) == 1


def test_a_deliverable_report_outlives_the_purge(bench, analysed, store):
    retention.purge_study(store, analysed, now())

    with bench.sessions() as session:
        deliveries = outbox.deliveries(session)
        documents = outbox.documents(session, deliveries[0].result_id)
    assert {one.state for one in deliveries} == {"due"}
    for one in documents:
        bench.site.spool.verify(one.path, one.sha256)


def test_files_that_no_result_keeps_are_dropped_after_a_while(bench, analysed, store):
    spool = bench.site.spool
    content = b"left by a lost analysis"
    digest = hashlib.sha256(content).hexdigest()
    kept.keep_crop(spool, digest, content)

    with bench.sessions.begin() as session:
        soon = keeping.reconcile(session, spool, now())
        later = keeping.reconcile(session, spool, now() + 2 * keeping.ORPHAN_AGE)
    assert (soon, later) == (0, 1)
    assert len(list(kept.files(spool))) == 2


def test_documents_of_a_killed_analysis_are_dropped_after_a_while(
    bench, analysed, store
):
    spool = bench.site.spool
    content = b"frozen, and then its worker was killed before it could commit"
    path = spool.write_document(hashlib.sha256(content).hexdigest(), content)
    (result,) = bench.results(analysed)

    with bench.sessions.begin() as session:
        soon = keeping.reconcile(session, spool, now())
        later = keeping.reconcile(session, spool, now() + 2 * keeping.ORPHAN_AGE)
        documents = outbox.documents(session, result.result_id)
    assert (soon, later) == (0, 1)
    assert not spool.absolute(path).exists()
    assert all(spool.absolute(one.path).is_file() for one in documents)


KILLED = """
import os, sys
from dicom_node import db, purge
from dicom_node.spool import Spool
from dicom_node.study import StudyUid
from worker import retention
from worker.retention import Store
from pathlib import Path

url, spool, uid, moment = sys.argv[1:]
remove = Spool.remove

def die_halfway(self, paths):
    paths = list(paths)
    if moment == "before":
        os._exit(9)
    remove(self, paths[:4])
    os._exit(9)

Spool.remove = die_halfway
store = Store(db.writing(db.connect(url)), Spool(Path(spool)))
retention.purge_study(store, StudyUid(uid), db.now())
"""


@pytest.mark.parametrize("moment", ["before", "halfway"])
def test_a_purge_that_was_killed_is_finished_by_the_next_sweep(
    bench, analysed, store, source, moment
):
    done = subprocess.run(
        [
            *(sys.executable, "-c", KILLED, bench.site.settings.database),
            *(str(bench.site.spool.root), analysed, moment),
        ],
        env=dict(os.environ),
        timeout=60,
        check=False,
    )
    left = files(bench).count("instances.dcm")
    with bench.sessions() as session:
        begun = purge.unfinished(session)

    retention.sweep(store, None, now())

    assert done.returncode == 9
    assert left == (10 if moment == "before" else 6)
    assert begun == [analysed]
    assert files(bench).count("instances.dcm") == 1
    with bench.sessions() as session:
        assert purge.unfinished(session) == []
    dissect(bench, analysed, Slnd.POSITIVE)
    assert len(analyze(analysed, bench.site, source)) == 1


def test_stage_two_in_the_middle_of_a_purge_works_from_what_was_kept(
    bench, analysed, source
):
    with bench.sessions.begin() as session:
        purge.begin(session, analysed, now())
    dissect(bench, analysed, Slnd.POSITIVE)

    assert len(analyze(analysed, bench.site, source)) == 1
