"""`make bench`: ours and theirs, interleaved; medians, spread and ratios.

Absolute figures of a shared machine drift by factors, so read the ratios of one run.
Timings are never asserted.
"""

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dicom_node import db, schema
from dicom_node.listener import Listener
from dicom_node.report.device import Device
from dicom_node.settings import AllowedPeer, NodeSettings, load
from dicom_node.study import StudyUid
from tests import dicom_objects
from tests.peers import dcmsend, free_port, wait_until
from tests.quick_models import write_models
from worker import models, pipeline, weights
from worker.cascade import feature_map
from worker.pipeline import Cascade, StudyInput

SIDE = 512  # 512 x 512 x 16 bit: half a megabyte, as a breast MR slice has
Rounds = dict[str, list[float]]


def measure(parts: dict[str, Callable[[], float]], rounds: int, what: str) -> Rounds:
    """Run every part once a round, in turn; return each part's figures."""
    figures: Rounds = {name: [] for name in parts}
    for _ in track(range(rounds), what, console=Console(stderr=True)):
        for name, part in parts.items():
            figures[name].append(part())
    return figures


def instances(folder: Path, count: int) -> list[Path]:
    """Write half-megabyte MR instances of one study."""
    generator = np.random.default_rng(1)
    image = generator.integers(0, 4000, (SIDE, SIDE), dtype=np.uint16)
    paths = []
    for number in range(count):
        one = dicom_objects.mr_slice(image=image, position=(20.0, -60.0, float(number)))
        path = folder / f"{number:04}.dcm"
        one.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@contextmanager
def ours(folder: Path) -> Iterator[str]:
    """Our listener in a process of its own, as durable as in production."""
    port = free_port()
    code = "from tests.benchmarks.__main__ import listen; listen()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(port)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield f"SENTINODE@127.0.0.1:{port}"
    process.terminate()
    process.wait(10)
    process.stdout.close()


def listen() -> None:
    """Entry of the process that `ours` starts."""
    settings = load(
        NodeSettings,
        data_dir=Path(sys.argv[-2]),
        host="127.0.0.1",
        port=int(sys.argv[-1]),
        allow=(AllowedPeer("BENCH"),),
    )
    schema.upgrade(settings.database)
    Listener(settings, db.writing(db.connect(settings.database))).start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    time.sleep(3600)


@contextmanager
def theirs(folder: Path, *command: str) -> Iterator[str]:
    """A storage SCP of somebody else; its last argument is the port."""
    port = free_port()
    folder.mkdir(parents=True)
    process = subprocess.Popen(
        [*command, str(port)],
        cwd=folder,
        env={"TCP_NODELAY": "1", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    target = f"ANY@127.0.0.1:{port}"
    echo = ["echoscu", "127.0.0.1", str(port)]
    wait_until(
        lambda: (
            not subprocess.run(echo, stderr=subprocess.DEVNULL, check=False).returncode
        ),
        "C-ECHO",
    )
    yield target
    process.terminate()
    process.wait(10)


def receive(folder: Path, count: int, rounds: int) -> Rounds:
    """Instances per second over one association; a fresh receiver for each round."""
    sources = folder / "source"
    sources.mkdir()
    paths = instances(sources, count)
    number = iter(range(10_000))

    def timed(target: str) -> float:
        started = time.perf_counter()
        dcmsend(target, *paths, calling="BENCH")
        return count / (time.perf_counter() - started)

    def own() -> float:
        with ours(folder / f"ours-{next(number)}") as target:
            return timed(target)

    def dcmtk() -> float:
        place = folder / f"dcmtk-{next(number)}"
        with theirs(place, "storescp", "-pdu", "131072", "+B") as target:
            return timed(target)

    def pynetdicom() -> float:
        place = folder / f"pynetdicom-{next(number)}"
        command = (sys.executable, "-m", "pynetdicom", "storescp")
        with theirs(place, *command) as target:
            return timed(target)

    parts = {
        "Sentinode listener (fsync, ledger)": own,
        "DCMTK storescp (not durable)": dcmtk,
        "pynetdicom storescp (not durable)": pynetdicom,
    }
    return measure(parts, rounds, "Receiving")


def analyse(folder: Path, rounds: int) -> Rounds:
    """CPU milliseconds of one study, and of the bare forward pass within it."""
    torch.set_num_threads(1)
    store = write_models(folder / "models")
    sln, nsln = (
        weights.load_stage(
            models.folder(store, one.name, one.version), torch.device("cpu")
        )
        for one in sorted(models.installed(store), key=lambda one: one.stage == "NSLN")
    )
    study = folder / "study"
    study.mkdir()
    slices = dicom_objects.dynamic_series()
    for number, one in enumerate((*slices, dicom_objects.gsps_rectangle([slices[4]]))):
        one.save_as(study / f"{number}.dcm", enforce_file_format=True)
    given = StudyInput(
        StudyUid(slices[0].StudyInstanceUID),
        dicom_objects.stored_folder(study),
        {},
        {},
    )
    device = Device(uid="1.2.3", serial="1", software_version="0")
    x = torch.zeros(1, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def whole() -> float:
        started = time.process_time()
        pipeline.analyze(given, Cascade(sln, nsln, {}), device)
        return (time.process_time() - started) * 1000

    def forward() -> float:
        started = time.process_time()
        with torch.inference_mode():
            feature_map(sln.network, x)
        return (time.process_time() - started) * 1000

    parts = {
        "study: select, decode, stage I, CAM, SR, SC": whole,
        "bare forward pass, batch 1": forward,
    }
    measure(parts, 2, "Warming up")
    return measure(parts, rounds * 4, "Analysing")


def show(title: str, unit: str, figures: Rounds) -> None:
    """Print medians, spread and the ratio to the first row."""
    table = Table(title=f"{title} [{unit}]", title_justify="left")
    for column in ("", "median", "min - max", "first row / this"):
        table.add_column(column)
    first = statistics.median(next(iter(figures.values())))
    for name, values in figures.items():
        median = statistics.median(values)
        table.add_row(
            name,
            f"{median:.1f}",
            f"{min(values):.1f} - {max(values):.1f}",
            f"{first / median:.2f}",
        )
    Console(width=100).print(table)


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--instances", "count", default=200, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write figures.")
def main(rounds: int, count: int, path: Path | None) -> None:
    """Measure receiving and analysing against others, in one run."""
    folder = Path(tempfile.mkdtemp(prefix="sentinode-bench-"))
    try:
        received = receive(folder, count, rounds)
        analysed = analyse(folder, rounds)
    finally:
        shutil.rmtree(folder)
    show("Receive, one association, 0.5 MB instances", "instances/s", received)
    show("Analyse one study", "CPU ms", analysed)
    if path:
        path.write_text(
            json.dumps({"receive": received, "analyse": analysed}, indent=2)
        )


if __name__ == "__main__":
    main()
