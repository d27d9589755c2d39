"""Shadow, drift, promotion under load and the retraining loop, on a live database."""

import json
import shutil
import threading
import time
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from sqlalchemy import select

from dicom_node.db import now
from dicom_node.errors import StateError
from dicom_node.findings import Stage
from dicom_node.settings import load
from tests.live_site import Crowd
from tests.quick_models import write_model
from training import lease, lineage, monitor, retrain, shadow, triggers, webhook
from training.lineage import Lineage
from training.settings import TrainingSettings
from training.site import Site
from training.triggers import Counts, due
from worker import models as model_store
from worker import outcomes
from worker import registry as versions
from worker.model_tables import (
    DriftReportRow,
    RetrainingRow,
    RetrainingState,
    ShadowScoreRow,
    VersionStatus,
)
from worker.registry import Decision
from worker.replay import Archive, replay
from worker.serving import LoadedCascade
from worker.tables import ActivationKind
from worker.tasks.analysis import analyze

CPU = torch.device("cpu")
OLD, NEW = "untrained-sln@1-1", "untrained-sln@1-9"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def settings(settings, tmp_path, quick_models):
    """With a folder of models that a test may change."""
    shutil.copytree(quick_models, tmp_path / "models")
    return settings.model_copy(update={"models_dir": tmp_path / "models"})


@pytest.fixture
def trainer(bench, settings):
    write_model(settings.models, Stage.SLN, 9)
    wanted = load(
        TrainingSettings,
        data_dir=settings.data_dir,
        database_url=settings.database_url,
        models_dir=settings.models,
    )
    site = Site(wanted, bench.sessions, bench.site.spool)
    with bench.sessions.begin() as session:
        for manifest in model_store.installed(settings.models):
            versions.register(session, manifest, None, by())
            if manifest.version != "1-9":
                versions.put_into_service(session, manifest, by())
    return site


def by(kind=ActivationKind.ACTIVATED):
    return Decision("tester", now(), None, kind)


def manifest_of(trainer, reference):
    folder = model_store.folder(trainer.models, *reference.split("@"))
    return model_store.verify(folder)


def test_promoting_while_studies_are_analysed_never_fails_one(
    bench, trainer, slices, mark
):
    """Each result names one of the two models, with its weights; both are replayed."""
    uid = bench.receive(*slices, mark)
    cascade = LoadedCascade(trainer.models, CPU)
    weights = {r: manifest_of(trainer, r).weights_sha256 for r in (OLD, NEW)}
    stop = threading.Event()

    def promote_to_and_fro():
        kind = ActivationKind.PROMOTED
        while not stop.is_set():
            for reference in (NEW, OLD):
                with trainer.sessions.begin() as session:
                    manifest = manifest_of(trainer, reference)
                    versions.put_into_service(session, manifest, by(kind))
                time.sleep(0.01)

    thread = threading.Thread(target=promote_to_and_fro)
    thread.start()
    found = []
    try:
        for _ in range(12):
            with bench.sessions.begin() as session:
                outcomes.mark_stale(session, uid)
            bench.queue(uid) if not found else _requeue(bench, uid)
            found += analyze(uid, bench.site, cascade)
    finally:
        stop.set()
        thread.join()

    said = []
    for result in bench.results(uid):
        sln = result.stages[0]
        assert weights[sln.model] == sln.weights_sha256
        said.append(sln.model)
    assert len(found) == 12
    assert set(said) == {OLD, NEW}
    archive = Archive(bench.sessions, bench.site.spool, trainer.models)
    assert all(replay(one, archive).holds for one in (found[0], found[-1]))


def _requeue(bench, uid):
    from dicom_node import ledger  # noqa: PLC0415 - one use

    with bench.sessions.begin() as session:
        ledger.requeue(session, uid, now(), "again")


def test_a_shadow_scores_live_cases_once_and_nothing_leaves(
    bench, trainer, study, tmp_path
):
    with bench.sessions() as session:
        from dicom_node import outbox  # noqa: PLC0415 - one use

        before = outbox.deliveries(session)
    shadow.start(trainer, NEW, by())

    assert shadow.score_pending(trainer) == 1
    assert shadow.score_pending(trainer) == 0
    (row,) = shadow.status(trainer)
    with bench.sessions() as session:
        (score,) = session.scalars(select(ShadowScoreRow)).all()
        assert outbox.deliveries(session) == before
    (result,) = bench.results(study)
    assert (row["scored"], row["faults"], row["prospective"]["n"]) == (1, 0, 0)
    assert score.model == NEW
    assert score.probability != result.stages[0].probability
    assert result.stages[0].model == OLD
    stopped = shadow.stop(trainer, Stage.SLN, now())
    assert stopped.reference == NEW
    with pytest.raises(StateError, match="no model shadows"):
        shadow.stop(trainer, Stage.SLN, now())


def test_a_shadow_says_what_the_model_would_say_in_service(bench, trainer, study):
    from worker import weights  # noqa: PLC0415 - one use
    from worker.cascade import score  # noqa: PLC0415 - as above
    from worker.preprocess import to_input  # noqa: PLC0415 - as above

    shadow.start(trainer, NEW, by())
    shadow.score_pending(trainer)
    with bench.sessions() as session:
        (row,) = session.scalars(select(ShadowScoreRow)).all()
        (case,) = shadow.kept_cases.newest(session, Stage.SLN, 9)
    model = weights.load_stage(model_store.folder(trainer.models, *NEW.split("@")), CPU)
    crop = shadow.kept_cases.crop(trainer.spool, case)
    x = to_input(crop.pixels, crop.box, model.manifest.preprocessing)
    assert row.probability == score(model, x).probability


def test_a_shadow_whose_files_rot_is_stopped_and_the_service_goes_on(
    bench, trainer, study
):
    shadow.start(trainer, NEW, by())
    folder = model_store.folder(trainer.models, *NEW.split("@"))
    (folder / "model.safetensors").write_bytes(b"rot")

    assert shadow.score_pending(trainer) == 0
    assert shadow.status(trainer) == []


def test_a_damaged_crop_is_a_fault_and_not_tried_for_ever(bench, trainer, study):
    with bench.sessions() as session:
        (case,) = shadow.kept_cases.newest(session, Stage.SLN, 9)
    from dicom_node import kept  # noqa: PLC0415 - one use

    path = trainer.spool.absolute(kept.crop_path(case.crop_sha256))
    path.write_bytes(b"no crop")
    shadow.start(trainer, NEW, by())

    assert shadow.score_pending(trainer) == 1
    assert shadow.score_pending(trainer) == 0
    assert shadow.status(trainer)[0]["faults"] == 1


def test_the_model_in_service_cannot_be_its_own_shadow(trainer):
    with pytest.raises(StateError, match="serves already"):
        shadow.start(trainer, OLD, by())


def test_cases_labelled_after_their_shadow_score_compare_both_models(
    bench, trainer, study, slices
):
    crowd = Crowd(bench, study, slices[4])
    early = [crowd.add(i % 2 == 0, labelled=False) for i in range(12)]
    late = crowd.add(positive=True, labelled=True)
    shadow.start(trainer, NEW, by())
    shadow.score_pending(trainer)
    with bench.sessions.begin() as session:
        for i, (_, uid) in enumerate(early):
            crowd.say(session, uid, i % 2 == 0, now())

    (row,) = shadow.status(trainer)

    assert late
    judged = row["prospective"]
    assert (judged["n"], judged["positives"]) == (12, 6)
    assert 0 <= judged["shadow"][0] <= 1
    assert judged["difference"][1] <= judged["difference"][0]


def observe(trainer):
    return {
        (one.statistic, one.scanner): one
        for one in monitor.observe(trainer, Stage.SLN, now())
    }


@pytest.fixture
def crowd(bench, trainer, study, slices):
    """The champion's lineage is of 240 cases like those of the site."""
    made = Crowd(bench, study, slices[4])
    values = {name: [] for name in monitor.features.NAMES}
    for i in range(240):
        image = made.draw(i % 3 == 0, 1.0)
        pixels = image.pixel_array.astype(np.float32)
        box = tuple(getattr(made.result, f"roi_{e}") for e in ("x0", "y0", "x1", "y1"))
        from worker import crops  # noqa: PLC0415 - one use

        said = monitor.features.of_crop(
            crops.cut(pixels, box), float(np.sqrt(made.result.area_mm2))
        )
        for name, value in zip(values, said, strict=True):
            values[name].append(value)
    origin = Lineage(
        stage=Stage.SLN,
        snapshot_id="0" * 64,
        cases=240,
        positives=80,
        patients=(),
        features={n: lineage.reference(np.array(v)) for n, v in values.items()},
    )
    lineage.write(model_store.folder(trainer.models, *OLD.split("@")), origin)
    return made


def test_drift_of_a_live_site_is_seen_and_confirmed_in_two_windows(
    crowd, trainer, bench
):
    def fill(n, gain):
        for i in range(n):
            crowd.add(i % 3 == 0, gain=gain, labelled=False)

    fill(99, 1.0)  # with the analysed study itself one window
    calm = observe(trainer)
    fill(100, 1.6)
    once = observe(trainer)
    fill(100, 1.6)
    twice = observe(trainer)

    everywhere = monitor.drift.EVERY_SCANNER
    high = ("psi_window_high", everywhere)
    assert not calm[high].alarm
    assert once[high].alarm
    assert "window_high" not in once["confirmed_alarms", everywhere].detail
    assert twice["confirmed_alarms", everywhere].alarm
    with bench.sessions() as session:
        assert monitor.confirmed(session, Stage.SLN, OLD) is not None
        rows = session.scalars(select(DriftReportRow)).all()
        counts = triggers.count(session, Stage.SLN, trainer.settings)
    assert {row.model for row in rows} == {OLD}
    assert "window_high" in counts.drift


def test_nothing_is_tested_on_too_few_cases(trainer, study):
    assert monitor.observe(trainer, Stage.SLN, now()) == []


COUNTS = Counts(Stage.SLN, 400, 100, 60, 15, now() - timedelta(days=8), "a@1", None)


@pytest.mark.parametrize(
    ("change", "train", "why"),
    [
        ({}, True, "60 new cases with 15 positive"),
        ({"new": 49}, False, "no drift is confirmed"),
        ({"new_positives": 11}, False, "no drift is confirmed"),
        ({"new": 0, "drift": "of size"}, True, "drift of size"),
        ({"since": now() - timedelta(days=6)}, False, "days since the last"),
        ({"cases": 299}, False, "300 with 70 are needed"),
        ({"positives": 69}, False, "300 with 70 are needed"),
        ({"since": None, "champion": None}, True, "a first model"),
        ({"stage": Stage.NSLN, "cases": 199}, False, "200 with 1 are needed"),
    ],
)
def test_when_a_stage_is_trained_again(tmp_path, change, train, why):
    settings = load(TrainingSettings, data_dir=tmp_path)
    found = due(replace(COUNTS, **change), settings, now())
    assert found.train is train
    assert why in found.why


def test_the_calendar_trains_when_nothing_else_does(tmp_path):
    settings = load(TrainingSettings, data_dir=tmp_path, retrain_every_days=8)
    assert due(replace(COUNTS, new=0), settings, now()).train


def test_one_trainer_at_a_time_and_a_killed_one_lets_go(bench):
    hour = timedelta(hours=1)
    start = now()

    def take(who, at):
        with bench.sessions.begin() as session:
            return lease.take(session, "x", who, (at, hour))

    assert take("a", start)
    assert not take("b", start + hour / 2)
    assert take("a", start + hour / 2)
    assert take("b", start + 2 * hour)
    with bench.sessions.begin() as session:
        lease.release(session, "x", "a")  # no longer ours
    assert not take("a", start + 2 * hour)


def test_two_retrainings_at_once_are_refused(trainer):
    shift = retrain.Shift(trainer)
    shift.begin()
    with pytest.raises(StateError, match="under way"):
        retrain.retrain(trainer, Stage.SLN)
    shift.end()
    assert not retrain.retrain(trainer, Stage.SLN).trained


def test_a_run_that_is_interrupted_too_often_is_abandoned_with_its_files(
    bench, trainer
):
    folder = trainer.settings.workshop / "runs" / "r1"
    folder.mkdir(parents=True)
    with bench.sessions.begin() as session:
        session.add(
            RetrainingRow(
                retraining_id="r1",
                stage=Stage.SLN,
                state=RetrainingState.RUNNING,
                trigger="test",
                step="frozen",
                attempts=3,
                started_at=now(),
            )
        )

    assert not retrain.retrain(trainer, Stage.SLN).trained
    with bench.sessions() as session:
        row = session.get(RetrainingRow, "r1")
    assert row.state is RetrainingState.ABANDONED
    assert not folder.exists()


def test_a_run_that_fails_says_why_and_leaves_the_champion(bench, trainer, study):
    outcome = retrain.retrain(trainer, Stage.SLN, at_once=True)

    assert outcome.state == RetrainingState.FAILED
    assert outcome.why
    with bench.sessions() as session:
        assert outcomes.activations(session)[Stage.SLN].reference == OLD
        (row,) = session.scalars(select(RetrainingRow)).all()
        states = {one.reference: one.status for one in versions.versions(session)}
    assert row.detail == outcome.why
    assert states[OLD] is VersionStatus.CHAMPION


class Receiver:
    """An HTTP server that fails so often, then keeps what it is sent."""

    def __init__(self, failures=(), tmp_path=None):
        self.got, self.failures = [], list(failures)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                code = outer.failures.pop(0) if outer.failures else 204
                if code < 300:
                    outer.got.append((body, self.headers.get(webhook.SIGNATURE)))
                self.send_response(code)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def test_a_report_is_posted_again_signed_and_without_a_patient(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    receiver = Receiver(failures=[503, 429])
    pauses = []
    arrived = webhook.post(receiver.url, {"a": 1}, secret, pauses.append)
    receiver.close()

    ((body, signature),) = receiver.got
    assert arrived
    assert pauses == [1.0, 4.0]
    assert webhook.verify(b"s3cret", body, signature)
    assert not webhook.verify(b"other", body, signature)
    assert json.loads(body) == {"a": 1}


def test_a_refused_report_is_not_repeated_and_a_lost_one_ends(tmp_path):
    receiver = Receiver(failures=[400, 400])
    pauses = []
    assert not webhook.post(receiver.url, {}, None, pauses.append)
    assert pauses == []
    receiver.close()
    assert not webhook.post(receiver.url, {}, None, pauses.append)
    assert len(pauses) == 3
    assert not webhook.post(receiver.url, {}, tmp_path / "none", pauses.append)
