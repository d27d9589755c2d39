"""Storing half-megabyte MR instances: our listener, DCMTK, Orthanc, pynetdicom.

Every sender is DCMTK's dcmsend, and TCP_NODELAY=1 holds on both ends: without it DCMTK
waits 45 ms for each instance, whoever the peer is. Only ours and Orthanc answer when an
object is safe; the others have handed it to the page cache.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from dicom_node import schema
from dicom_node.settings import NodeSettings, load
from tests import dicom_objects
from tests.benchmarks.measuring import Line, Rounds, cpu_ms, measure, peak_mb
from tests.peers import Orthanc, dcmsend, free_port, wait_until

SIDE = 512  # 512 x 512 x 16 bit: half a megabyte, as a breast MR slice has
CALLER = "BENCH"
OURS, DCMTK, ORTHANC = "Sentinode", "DCMTK storescp", "Orthanc"
PYNETDICOM, STOCK = "pynetdicom storescp", "Sentinode, without native reading"
FORKING = "DCMTK storescp --fork"

Receiver = Callable[[Path], AbstractContextManager["Target"]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send, and which process receives."""

    address: str
    pid: int


def instances(folder: Path, number: int, study: str | None = None) -> list[Path]:
    """Write half-megabyte MR instances of one study."""
    generator = np.random.default_rng(1)
    image = generator.integers(0, 4000, (SIDE, SIDE), dtype=np.uint16)
    folder.mkdir(parents=True)
    paths = []
    for place in range(number):
        one = dicom_objects.mr_slice(image=image, position=(20.0, -60.0, float(place)))
        if study is not None:
            one.StudyInstanceUID = study
            one.SOPInstanceUID = f"{study}.{place}"
            one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        path = folder / f"{place:04}.dcm"
        one.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


@contextmanager
def ours(folder: Path, *, native: bool = True) -> Iterator[Target]:
    """Our listener as it runs in production, from its start to where it listens."""
    port = free_port()
    if not folder.exists():
        schema.upgrade(load(NodeSettings, data_dir=folder).database)
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node"],
        env={
            **os.environ,
            "SENTINODE_DATA_DIR": str(folder),
            "SENTINODE_HOST": "127.0.0.1",
            "SENTINODE_PORT": str(port),
            "SENTINODE_ALLOW": CALLER,
            "SENTINODE_NATIVE_STORE": str(native),
            "SENTINODE_MAX_ASSOCIATIONS_PER_CALLER": "16",
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _listens(port):
            time.sleep(0.005)
        yield Target(f"SENTINODE@127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def theirs(folder: Path, *command: str) -> Iterator[Target]:
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
    echo = ["/usr/bin/echoscu", "127.0.0.1", str(port)]
    try:
        wait_until(
            lambda: (
                not subprocess.run(
                    echo, stderr=subprocess.DEVNULL, check=False
                ).returncode
            ),
            "C-ECHO",
        )
        yield Target(f"ANY@127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def orthanc(folder: Path) -> Iterator[Target]:
    """Orthanc, with a thread for each of the callers."""
    running = Orthanc(folder, free_port(), options={"DicomThreadsCount": 16}).start()
    try:
        yield Target(str(running), running.process.pid)
    finally:
        running.stop()


RECEIVERS: dict[str, Receiver] = {
    OURS: ours,
    STOCK: lambda folder: ours(folder, native=False),
    DCMTK: lambda folder: theirs(folder, "storescp", "-pdu", "131072", "+B"),
    FORKING: lambda folder: theirs(
        folder, "storescp", "-pdu", "131072", "+B", "--fork"
    ),
    ORTHANC: orthanc,
    PYNETDICOM: lambda folder: theirs(
        folder, sys.executable, "-m", "pynetdicom", "storescp"
    ),
}


def together(address: str, lots: list[list[Path]]) -> float:
    """Send each lot over an association of its own, all at once; return the seconds."""
    faults: list[BaseException] = []

    def send(lot: list[Path]) -> None:
        try:
            dcmsend(address, *lot, calling=CALLER)
        except BaseException as fault:  # noqa: BLE001 - raised below, in the main thread
            faults.append(fault)

    threads = [threading.Thread(target=send, args=(lot,)) for lot in lots]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - started
    if faults:
        raise faults[0]
    return taken


def disk_alone(folder: Path, number: int, threads: int = 1) -> float:
    """Files per second that the disk makes durable for some threads, without a network.

    Each is written, synced, given its name, and its folder synced: what no receiver
    can leave out that promises as much.
    """
    content = os.urandom(2 * SIDE * SIDE)

    def fill(below: Path) -> None:
        below.mkdir(parents=True)
        place = os.open(below, os.O_RDONLY)
        for name in range(number // threads):
            draft, target = below / f"{name}.part", below / f"{name}.dcm"
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT)
            os.write(handle, content)
            os.fsync(handle)
            os.close(handle)
            draft.rename(target)
            os.fsync(place)
        os.close(place)

    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, [folder / str(each) for each in range(threads)]))
    return number / (time.perf_counter() - started)


def rates(
    folder: Path, names: tuple[str, ...], lots: list[list[Path]], rounds: int
) -> tuple[Rounds, Rounds]:
    """Return instances per second, and CPU ms per instance, of each receiver."""
    total = sum(map(len, lots))
    warm = instances(folder / f"warm-{len(lots)}", 40)
    spent: Rounds = {name: [] for name in names}
    fresh = count()

    def of(name: str) -> Callable[[], float]:
        def part() -> float:
            place = folder / f"receiver-{len(lots)}-{next(fresh)}"
            with RECEIVERS[name](place) as target:
                together(target.address, [warm])  # nobody starts for each study
                before = cpu_ms(target.pid)
                taken = together(target.address, lots)
                spent[name].append((cpu_ms(target.pid) - before) / total)
            return total / taken

        return part

    found = measure(
        {name: of(name) for name in names}, rounds, f"Receiving over {len(lots)}"
    )
    return found, spent


def lines(folder: Path, rounds: int, number: int) -> list[Line]:
    """Measure P1 to P4."""
    one = [instances(folder / "one", number)]
    four = [
        instances(folder / f"four-{lot}", number // 2, f"1.2.826.0.1.{lot}")
        for lot in range(4)
    ]
    alone, spent = rates(folder, (OURS, STOCK, DCMTK, ORTHANC, PYNETDICOM), one, rounds)
    crowd, _ = rates(folder, (OURS, FORKING, ORTHANC, PYNETDICOM), four, rounds)
    disks = {
        threads: [
            disk_alone(folder / f"disk-{threads}-{each}", number, threads)
            for each in range(rounds)
        ]
        for threads in (1, 4)
    }
    many, resident = _sixteen(folder, four)
    unit = "instances/s"

    def against(
        target: str, name: str, wanted: float, found: Rounds, many: str
    ) -> Line:
        what = f"durable receive, {many}"
        return Line(
            target, what, unit, found[OURS], name, found[name], wanted, at_least=True
        )

    return [
        against("P1", DCMTK, 0.7, alone, "1 association"),
        against("P2", FORKING, 1.2, crowd, "4 associations"),
        against("P3", ORTHANC, 3.0, alone, "1 association"),
        against("P3", PYNETDICOM, 4.0, alone, "1 association"),
        against("P3", ORTHANC, 3.0, crowd, "4 associations"),
        against("P3", PYNETDICOM, 4.0, crowd, "4 associations"),
        Line("", "durable receive, 16 associations", unit, many),
        Line("", "the disk alone, 1 thread", unit, disks[1]),
        Line("", "the disk alone, 4 threads", unit, disks[4]),
        Line("", "without native reading, 1 association", unit, alone[STOCK]),
        Line("P4", "listener, CPU per instance", "ms", spent[OURS], wanted=1.2),
        Line("", "the same without native reading", "ms", spent[STOCK]),
        Line("", "Orthanc, CPU per instance", "ms", spent[ORTHANC]),
        Line("", "DCMTK storescp, CPU per instance", "ms", spent[DCMTK]),
        Line("P4", "listener, memory, 16 associations", "MB", resident, wanted=150),
    ]


def _sixteen(folder: Path, lots: list[list[Path]]) -> tuple[list[float], list[float]]:
    """Return instances per second over 16 associations, and the memory they took."""
    sixteen = [lot[place::4] for lot in lots for place in range(4)]
    with ours(folder / "sixteen") as target:
        taken = together(target.address, sixteen)
        return [sum(map(len, sixteen)) / taken], [peak_mb(target.pid)]
