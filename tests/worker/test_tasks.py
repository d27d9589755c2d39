"""Sweep, analysis and delivery against a real database."""

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
import torch

from dicom_node import ledger, outbox
from dicom_node.db import now
from dicom_node.errors import (
    ModelIntegrityError,
    SettingsError,
    StudyStateError,
    TransientError,
)
from dicom_node.findings import Laterality, Slnd, SlndResult, Stage
from dicom_node.report.device import Output
from dicom_node.settings import load
from dicom_node.study import Reason, StudyState
from tests import dicom_objects
from tests.worker.conftest import PACS
from worker import models as model_store
from worker import outcomes, queues
from worker.serving import LoadedCascade, choose_device, code_sha256, signing_device
from worker.settings import WorkerSettings
from worker.tasks import delivery
from worker.tasks.analysis import analyze
from worker.tasks.delivery import deliver
from worker.tasks.dispatch import sweep

CPU = torch.device("cpu")
SOON = timedelta(seconds=1)


def activate_all(bench) -> None:
    with bench.sessions.begin() as session:
        for model in model_store.installed(bench.site.settings.models):
            identity = (model.name, model.version, model.weights_sha256)
            outcomes.activate(session, model.stage, identity, "test", now())


def test_the_sweep_completes_and_announces_a_quiet_study_once(bench, slices):
    uid = bench.receive(*slices)

    for _ in range(2):
        sweep(bench.sessions, bench.broker, bench.site.settings, now() + SOON)

    assert bench.sent == [(queues.ANALYZE, [uid])]
    assert bench.study(uid).state is StudyState.QUEUED


def test_a_lost_message_is_sent_again(bench, slices):
    bench.receive(*slices)
    sweep(bench.sessions, bench.broker, bench.site.settings, now() + SOON)

    later = now() + bench.site.settings.resend_after + SOON
    sweep(bench.sessions, bench.broker, bench.site.settings, later)

    assert len(bench.sent) == 2


def test_a_message_in_a_long_queue_is_late_not_lost(bench, slices):
    bench.receive(*slices)
    sweep(bench.sessions, bench.broker, bench.site.settings, now() + SOON)
    bench.backlog = 500

    later = now() + bench.site.settings.resend_after + SOON
    sweep(bench.sessions, bench.broker, bench.site.settings, later)

    assert len(bench.sent) == 1


def test_a_queue_that_was_wiped_and_fills_again_holds_no_earlier_message(bench):
    settings = bench.site.settings
    wiped = bench.receive(*dicom_objects.fresh_study("before the wipe"))
    sweep(bench.sessions, bench.broker, settings, now() + SOON)
    bench.receive(*dicom_objects.fresh_study("after the wipe"))
    sweep(bench.sessions, bench.broker, settings, now() + 10 * SOON)
    bench.backlog = 1  # the message of the second alone
    bench.sent.clear()

    later = now() + settings.resend_after + 20 * SOON
    sweep(bench.sessions, bench.broker, settings, later)

    assert bench.sent == [(queues.ANALYZE, [wiped])]


def test_messages_carry_identifiers_only(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    sweep(bench.sessions, bench.broker, bench.site.settings, now() + SOON)
    analyze(uid, bench.site, source)
    sweep(bench.sessions, bench.broker, bench.site.settings, now() + SOON)

    assert bench.sent == [
        (queues.ANALYZE, [uid]),
        (queues.DELIVER, [str(PACS)]),
    ]


def test_a_result_is_recorded_with_its_deliveries(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)

    (result_id,) = analyze(uid, bench.site, source)

    (result,) = bench.results(uid)
    with bench.sessions() as session:
        deliveries = outbox.deliveries(session)
        documents = outbox.documents(session, result_id)
    sln, nsln = result.stages
    assert result.result_id == result_id
    assert (sln.stage, nsln.stage) == (Stage.SLN, Stage.NSLN)
    assert sln.weights_sha256 == source(None).sln.manifest.weights_sha256
    assert [one.kind for one in documents] == ["SR", "SC"]
    assert {one.sop_instance_uid for one in deliveries} == {
        one.sop_instance_uid for one in documents
    }
    assert all(bench.site.spool.absolute(one.path).is_file() for one in documents)
    assert bench.study(uid).state is StudyState.ANALYZED


def test_a_second_message_does_nothing(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)

    assert analyze(uid, bench.site, source) == ()
    assert len(bench.results(uid)) == 1


def test_an_instance_that_comes_during_the_analysis_voids_its_result(
    bench, slices, mark, source
):
    uid = bench.receive(*slices[1:], mark)
    bench.queue(uid)

    def late(sessions):
        bench.receive(slices[0])
        return source(sessions)

    assert analyze(uid, bench.site, late) == ()
    assert bench.results(uid) == []
    assert bench.study(uid).state is StudyState.RECEIVING


def test_a_dissection_that_comes_during_the_analysis_is_not_forgotten(
    bench, slices, mark, source
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    slnd = SlndResult(Slnd.NEGATIVE, None, None, "test", now())

    def meanwhile(sessions):
        with sessions.begin() as session:
            outcomes.record_slnd(session, uid, Laterality.LEFT, slnd, "test")
        return source(sessions)

    analyze(uid, bench.site, meanwhile)
    requeued = bench.study(uid).state
    analyze(uid, bench.site, source)

    newest, _ = bench.results(uid)
    assert requeued is StudyState.QUEUED
    assert newest.slnd is not None
    assert newest.pathway == "sln_negative"


def test_a_study_without_a_rectangle_is_held_and_says_why(bench, slices, source):
    uid = bench.receive(*slices)
    bench.queue(uid)

    analyze(uid, bench.site, source)

    study = bench.study(uid)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.NO_ROI)
    assert study.detail


def test_a_site_without_models_holds_its_studies(bench, slices, mark):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)

    analyze(uid, bench.site, LoadedCascade(bench.site.settings.models, CPU))

    study = bench.study(uid)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.NO_MODEL)
    assert "models activate" in study.detail


def test_a_document_that_is_not_fit_to_be_sent_fails_the_study_and_sends_nothing(
    bench, slices, mark, source
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    unfit = replace(bench.site, device=replace(bench.site.device, uid="1.2.x"))

    assert analyze(uid, unfit, source) == ()

    study = bench.study(uid)
    with bench.sessions() as session:
        assert outbox.deliveries(session) == []
    assert bench.results(uid) == []
    assert (study.state, study.reason) == (StudyState.FAILED, Reason.DOCUMENT_INVALID)
    assert "the SR is not fit to be sent: DeviceUID is not a UID" in study.detail
    assert "studies requeue" in study.detail


def test_a_site_may_want_more_documents(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    device = replace(bench.site.device, outputs=tuple(Output))

    (result_id,) = analyze(uid, replace(bench.site, device=device), source)

    with bench.sessions() as session:
        kinds = sorted(one.kind for one in outbox.documents(session, result_id))
        sending = sorted(one.kind for one in outbox.deliveries(session))
    assert kinds == sending == ["GSPS", "PM", "SC", "SR"]


def test_the_outputs_of_a_site_are_a_setting(settings, monkeypatch):
    assert [str(one) for one in signing_device(settings).outputs] == ["SR", "SC"]
    monkeypatch.setenv("SENTINODE_OUTPUTS", "SR,GSPS")
    wanted = load(WorkerSettings, data_dir=settings.data_dir)
    assert signing_device(wanted).outputs == (Output.SR, Output.GSPS)
    monkeypatch.setenv("SENTINODE_OUTPUTS", "SC,PDF")
    with pytest.raises(SettingsError, match="SENTINODE_OUTPUTS"):
        load(WorkerSettings, data_dir=settings.data_dir)
    monkeypatch.setenv("SENTINODE_OUTPUTS", "SC")
    with pytest.raises(SettingsError, match="must name SR"):
        load(WorkerSettings, data_dir=settings.data_dir)


def test_the_program_that_reports_is_told_by_its_digest(settings):
    device = signing_device(settings)
    assert device.code_sha256 == code_sha256()
    assert len(device.code_sha256) == 64


def test_an_error_of_ours_fails_the_study_after_some_attempts(bench, slices, mark):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)

    def broken(_sessions):
        raise ZeroDivisionError("the name of the patient")

    states = []
    for _ in range(bench.site.settings.max_attempts):
        analyze(uid, bench.site, broken)
        states.append(bench.study(uid).state)

    study = bench.study(uid)
    assert states == [StudyState.QUEUED, StudyState.QUEUED, StudyState.FAILED]
    assert study.reason is Reason.ANALYSIS_ERROR
    assert "ZeroDivisionError" in study.detail
    assert "name of the patient" not in study.detail


def test_a_transient_error_gives_the_study_back(bench, slices, mark):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)

    def busy(_sessions):
        raise TransientError("not now")

    with pytest.raises(TransientError):
        analyze(uid, bench.site, busy)

    assert bench.study(uid).state is StudyState.QUEUED


def test_a_dead_workers_study_is_queued_again(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    with bench.sessions.begin() as session:
        ledger.claim(session, uid, "dead", timedelta(seconds=1), now())

    sweep(bench.sessions, bench.broker, bench.site.settings, now() + 2 * SOON)

    assert len(analyze(uid, bench.site, source)) == 1


def test_an_activation_changes_the_model_of_a_running_worker(bench, tmp_path):
    activate_all(bench)
    running = LoadedCascade(bench.site.settings.models, CPU)
    before = running(bench.sessions)
    again = running(bench.sessions)
    activate_all(bench)
    after = running(bench.sessions)

    assert again.sln is before.sln
    assert after.sln is not before.sln
    assert after.sln.manifest == before.sln.manifest


def test_other_weights_than_those_activated_are_refused(bench):
    with bench.sessions.begin() as session:
        for model in model_store.installed(bench.site.settings.models):
            identity = (model.name, model.version, "0" * 64)
            outcomes.activate(session, model.stage, identity, "test", now())

    with pytest.raises(ModelIntegrityError, match="activated were 000"):
        LoadedCascade(bench.site.settings.models, CPU)(bench.sessions)


def test_cuda_is_demanded_only_where_there_is_one():
    if torch.cuda.is_available():
        assert choose_device("cuda", 0) == torch.device("cuda", 0)
        return
    assert choose_device("auto", 3) == CPU
    with pytest.raises(SettingsError, match="no CUDA device"):
        choose_device("cuda", 0)


FORKING_WORKER = """
import os, sys
import torch
from worker.tasks import analysis  # what the parent of the pool imports

assert not torch.cuda.is_initialized()
assert analysis._cascade.cache_info().currsize == 0
child = os.fork()
if child == 0:
    analysis.load_models()
    loaded = analysis._cascade()(analysis.runtime.sessions())
    os._exit(0 if loaded.sln.device.type in {"cpu", "cuda"} else 1)
_, status = os.waitpid(child, 0)
assert analysis._cascade.cache_info().currsize == 0
assert not torch.cuda.is_initialized()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_models_load_after_the_fork_and_never_in_the_parent(bench):
    """CUDA cannot be used in a child when the parent has initialised it."""
    activate_all(bench)
    settings = bench.site.settings

    done = subprocess.run(
        [sys.executable, "-c", FORKING_WORKER],
        env={
            **os.environ,
            "SENTINODE_DATA_DIR": str(settings.data_dir),
            "SENTINODE_MODELS_DIR": str(settings.models),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_a_pacs_that_is_away_defers_the_delivery(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)

    place = bench.site
    deliver(str(PACS), delivery.Site(place.sessions, place.spool, place.settings))

    with bench.sessions() as session:
        deliveries = outbox.deliveries(session)
    assert {one.state for one in deliveries} == {"due"}
    assert all(one.attempts == 1 and one.next_attempt_at for one in deliveries)


def test_a_larger_rectangle_supersedes_and_a_smaller_one_does_not(
    bench, slices, mark, source
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    smaller, larger = (28.0, 36.0, 36.0, 44.0), (14.0, 20.0, 50.0, 60.0)

    counts = []
    for box in (smaller, larger):
        label = f"lesion {len(counts)}"
        bench.receive(dicom_objects.gsps_rectangle([slices[4]], box, label=label))
        bench.queue(uid)
        analyze(uid, bench.site, source)
        counts.append(len(bench.results(uid)))

    newest = bench.results(uid)[0]
    assert counts == [1, 2]
    assert newest.version == 2
    assert newest.candidates == 3


def accept(bench, uid, *reasons):
    with bench.sessions.begin() as session:
        ledger.accept(session, uid, reasons, "tester", now())


def requeue(bench, uid):
    with bench.sessions.begin() as session:
        ledger.requeue(session, uid, now(), "by hand")


def deliveries(bench):
    with bench.sessions() as session:
        return outbox.deliveries(session)


def unenhanced(**attributes):
    """A dynamic study in which nothing takes up contrast agent."""
    return dicom_objects.dynamic_series(image=dicom_objects.pixels(), **attributes)


def test_a_crop_without_contrast_sends_nothing_until_a_person_accepts_it(bench, source):
    slices = unenhanced()
    uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[4]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    held = bench.study(uid)
    requeue(bench, uid)
    analyze(uid, bench.site, source)
    again = bench.study(uid)
    nothing = bench.results(uid), deliveries(bench)

    accept(bench, uid, Reason.QUALITY)
    (result_id,) = analyze(uid, bench.site, source)

    with bench.sessions() as session:
        (report,) = [
            one for one in outbox.documents(session, result_id) if one.kind == "SR"
        ]
        events = ledger.events(session, uid)
    text = bench.site.spool.absolute(report.path).read_bytes()
    assert (held.state, held.reason) == (StudyState.HELD, Reason.QUALITY)
    assert "Side L, quality gate: contrast: the marked part is +0.0%" in held.detail
    assert "--accept-quality" in held.detail
    assert (again.state, again.reason) == (StudyState.HELD, Reason.QUALITY)
    assert nothing == ([], [])
    (result,) = bench.results(uid)
    overruled = "Quality gate, overruled by a person: contrast: the marked part"
    assert any(one.startswith(overruled) for one in result.why)
    assert b"Quality gate, overruled by a person: contrast" in text
    assert any(
        one.what == "accepted" and one.detail.startswith("quality by tester: Side L")
        for one in events
    )


def test_what_was_accepted_ends_when_another_object_comes(bench, source):
    slices = unenhanced()
    uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[4]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    accept(bench, uid, Reason.QUALITY)
    analyze(uid, bench.site, source)

    larger = dicom_objects.gsps_rectangle([slices[4]], (14.0, 20.0, 50.0, 60.0))
    bench.receive(larger)
    bench.queue(uid)
    analyze(uid, bench.site, source)

    with bench.sessions() as session:
        assert ledger.waived(session, uid) == frozenset()
    assert bench.study(uid).reason is Reason.QUALITY
    assert len(bench.results(uid)) == 1  # the earlier one stands


def test_an_accepted_result_stands_when_an_unrelated_object_comes(bench, source):
    slices = unenhanced()
    uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[4]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    accept(bench, uid, Reason.QUALITY)
    analyze(uid, bench.site, source)
    sent = len(deliveries(bench))

    t2 = {"ScanningSequence": "SE", "SeriesDescription": "t2_tse"}
    bench.receive(dicom_objects.mr_slice(series_uid="1.2.3.77", **t2))
    bench.queue(uid)
    analyze(uid, bench.site, source)

    assert bench.study(uid).state is StudyState.ANALYZED
    assert (len(bench.results(uid)), len(deliveries(bench))) == (1, sent)


def both_sides():
    """A dynamic study with a marked slice in each breast; only the left takes up."""
    left = dicom_objects.dynamic_series(slices=1)
    right = [
        dicom_objects.mr_slice(
            series_uid=one.SeriesInstanceUID,
            series_number=one.SeriesNumber,
            acquisition_number=one.AcquisitionNumber,
            position=(-140.0, -60.0, 0.0),
        )
        for one in left
    ]
    marks = [dicom_objects.gsps_rectangle([one[1]]) for one in (left, right)]
    return [*left, *right], marks


def test_one_bad_side_holds_the_study_and_is_named(bench, source):
    images, marks = both_sides()
    uid = bench.receive(*images, *marks)
    bench.queue(uid)
    analyze(uid, bench.site, source)

    study = bench.study(uid)
    assert (study.state, study.reason) == (StudyState.HELD, Reason.QUALITY)
    assert "Side R" in study.detail
    assert "Side L" not in study.detail
    assert (bench.results(uid), deliveries(bench)) == ([], [])

    accept(bench, uid, Reason.QUALITY)
    analyze(uid, bench.site, source)
    left, right = sorted(bench.results(uid), key=lambda one: one.laterality)
    assert not any("Quality gate" in one for one in left.why)
    assert any("Quality gate" in one for one in right.why)


def test_a_bad_second_side_neither_loses_nor_resends_the_first(bench, source):
    images, marks = both_sides()
    uid = bench.receive(*images, marks[0])
    bench.queue(uid)
    analyze(uid, bench.site, source)
    before = [one.result_id for one in bench.results(uid)], len(deliveries(bench))

    bench.receive(marks[1])
    bench.queue(uid)
    analyze(uid, bench.site, source)

    assert bench.study(uid).reason is Reason.QUALITY
    assert before == (
        [one.result_id for one in bench.results(uid)],
        len(deliveries(bench)),
    )


def test_nobody_accepts_what_a_study_is_not_held_for(bench, slices):
    uid = bench.receive(*slices)
    with pytest.raises(StudyStateError, match="is receiving; only one that is held"):
        accept(bench, uid, Reason.QUALITY)
    with bench.sessions.begin() as session:
        ledger.complete(session, uid, now())
        claim = ledger.claim(session, uid, "test", timedelta(seconds=9), now())
        held = (StudyState.HELD, now(), Reason.INCOMPLETE, "two images are missing")
        ledger.finish(session, claim, *held)
    with pytest.raises(StudyStateError, match="held: incomplete; only"):
        accept(bench, uid, Reason.QUALITY)

    accept(bench, uid, Reason.QUALITY, Reason.INCOMPLETE)

    with bench.sessions() as session:
        assert ledger.waived(session, uid) == {Reason.INCOMPLETE}


def test_a_waiver_can_be_ended_by_what_is_no_object(bench, source):
    slices = unenhanced()
    uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[4]]))
    bench.queue(uid)
    analyze(uid, bench.site, source)
    accept(bench, uid, Reason.QUALITY)
    with bench.sessions.begin() as session:
        ledger.end_waivers(session, uid, "tester", now())
    analyze(uid, bench.site, source)

    assert bench.study(uid).reason is Reason.QUALITY
