"""Sweep, analysis and delivery against a real database."""

import os
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

from dicom_node import ledger, outbox
from dicom_node.db import now
from dicom_node.errors import ModelIntegrityError, SettingsError, TransientError
from dicom_node.findings import Laterality, Slnd, SlndResult, Stage
from dicom_node.study import Reason, StudyState
from tests import dicom_objects
from tests.worker.conftest import PACS
from worker import models as model_store
from worker import outcomes, queues
from worker.serving import LoadedCascade, choose_device
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
        timeout=60,
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
    smaller = dicom_objects.gsps_rectangle([slices[4]], (28.0, 36.0, 36.0, 44.0))
    larger = dicom_objects.gsps_rectangle([slices[4]], (14.0, 20.0, 50.0, 60.0))

    counts = []
    for one in (smaller, larger):
        one.ContentCreatorName = f"READER^{len(counts)}"
        bench.receive(one)
        bench.queue(uid)
        analyze(uid, bench.site, source)
        counts.append(len(bench.results(uid)))

    newest = bench.results(uid)[0]
    assert counts == [1, 2]
    assert newest.version == 2
    assert newest.candidates == 3
