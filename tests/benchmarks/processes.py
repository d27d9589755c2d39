"""How long processes take to start, and what memory they hold."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from dicom_node import schema
from dicom_node.settings import NodeSettings, load
from tests.benchmarks.measuring import Line, measure, peak_mb
from tests.benchmarks.receiving import ours
from tests.peers import Sentinode, free_port, pids_of
from tests.quick_models import write_models


def lines(folder: Path, rounds: int) -> list[Line]:
    """Measure P9 and P13."""
    store = write_models(folder / "models")
    site = Sentinode(folder / "site", store)
    site.use(f"NOBODY@127.0.0.1:{free_port()}", "1")
    site.start()
    fresh = count()
    try:
        resident = [max(map(peak_mb, pids_of(site, "queues=analysis")))]
        parts: dict[str, Callable[[], float]] = {
            "help": lambda: _seconds([sys.executable, "-m", "worker.cli", "--help"]),
            "listener": lambda: _listener(folder / f"listener-{next(fresh)}"),
            "worker": lambda: _worker(site),
        }
        found = measure(parts, rounds, "Starting")
    finally:
        site.stop()
    return [
        Line(
            "P9", "analysis worker with both models, memory", "MB", resident, wanted=900
        ),
        Line("P13", "sentinode --help", "s", found["help"], wanted=0.4),
        Line(
            "P13", "listener, from start to listening", "s", found["listener"], wanted=1
        ),
        Line(
            "P13",
            "analysis worker, from start to ready",
            "s",
            found["worker"],
            wanted=6,
        ),
    ]


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def _listener(folder: Path) -> float:
    schema.upgrade(load(NodeSettings, data_dir=folder).database)
    started = time.perf_counter()
    with ours(folder):
        return time.perf_counter() - started


def _worker(site: Sentinode) -> float:
    """Return the seconds until one more analysis worker says that it is ready."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "celery", "-A", "worker", "worker"),
            *("--queues=analysis", "--include=worker.tasks.analysis"),
            *("--concurrency=1", "--hostname=bench@%h"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            **site.environment,
            "SENTINODE_DATA_DIR": str(site.folder),
        },
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "ready." in line:
            taken = time.perf_counter() - started
            process.terminate()
            process.stdout.read()
            process.wait(30)
            process.stdout.close()
            return taken
    raise AssertionError("the worker did not start")
