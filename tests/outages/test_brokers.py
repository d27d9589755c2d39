"""The broker is disposable: wiped or killed under load, nothing is lost or doubled."""

import json
import random
import threading
from collections import Counter

import pytest
import redis

from tests.outages.installation import Installation
from tests.peers import wait_until

pytestmark = pytest.mark.e2e

STUDIES = 5
WIPES = 12


class Embedded:
    """The broker that `sentinode up` brings, reached by its socket."""

    def __init__(self, installation: Installation):
        self._socket = str(installation.sentinode.folder / "broker.sock")

    def wipe(self) -> None:
        with redis.Redis(unix_socket_path=self._socket) as client:
            client.flushall()


def load(installation: Installation, folder) -> threading.Thread:
    """Begin to send studies, one after the other."""

    def send() -> None:
        for number in range(STUDIES):
            installation.send(folder, f"load-{number}")

    sending = threading.Thread(target=send)
    sending.start()
    return sending


def wipe_at_random(broker, seed: int) -> None:
    pause, chance = threading.Event(), random.Random(seed)  # noqa: S311 - no secret
    for _ in range(WIPES):
        pause.wait(chance.uniform(0.05, 0.8))
        broker.wipe()


def test_a_broker_that_is_wiped_under_load_loses_and_doubles_nothing(
    tmp_path, quick_models
):
    installation = Installation.of(tmp_path, quick_models)
    try:
        sending = load(installation, tmp_path / "made")
        wipe_at_random(Embedded(installation), seed=6)
        sending.join(60)
        found = installation.assert_nothing_lost_or_doubled()
    finally:
        installation.stop()
    assert found.claims == Counter(installation.sent)  # none ran twice


def with_workers(installation: Installation):
    """Return what `queue status` says once both workers answer; a busy host is slow."""
    status = installation.sentinode.json("queue", "status")
    names = [name.partition("@")[0] for name in status["workers"]]
    return status if names == ["analysis", "dispatch"] else None


def doctor_is_content(installation: Installation) -> bool:
    """Say whether `doctor` finds broker and workers well; the archive knows no echo."""
    said = json.loads(installation.sentinode.run("doctor", "--json").stdout)
    checks = {each["name"]: each["ok"] for each in said["checks"]}
    return checks["broker"] and checks["workers"]


def test_rabbitmq_carries_the_work_and_may_be_wiped_and_killed(
    tmp_path, quick_models, rabbit
):
    installation = Installation.of(
        tmp_path, quick_models, SENTINODE_BROKER_URL=rabbit.url
    )
    try:
        sending = load(installation, tmp_path / "made")
        wipe_at_random(rabbit, seed=7)
        rabbit.kill()
        rabbit.start()
        sending.join(60)
        installation.send(tmp_path / "made", "after")
        found = installation.assert_nothing_lost_or_doubled()
        status = wait_until(lambda: with_workers(installation), "both workers' answers")
        wait_until(lambda: doctor_is_content(installation), "the doctor's content")
        metrics = installation.sentinode.run("metrics").stdout
    finally:
        installation.stop()
    assert found.claims == Counter(installation.sent)
    assert "sentinode_broker_up 1.0" in metrics
    assert 'sentinode_queue_messages{queue="analysis"}' in metrics
    assert status["messages"].keys() == {"analysis", "delivery", "dispatch"}
    assert None not in status["messages"].values()
