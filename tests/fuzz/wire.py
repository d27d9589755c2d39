"""PDUs on the real socket of a listening process: valid conversations, damaged.

After each batch the listener must answer C-ECHO, have given back its threads, memory,
drafts and associations, and hold nothing that an unknown caller sent.
"""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import sqlalchemy as sa
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
)
from pynetdicom import AE

from dicom_node import schema
from dicom_node.association import pausing
from tests.fuzz import elements, mutation, seeds
from tests.peers import free_port

ROOT = Path(__file__).parents[2]
CALLER, STRANGER = "FUZZER", "STRANGER"
MARKER = b"SENT BY A STRANGER"
VERIFICATION = "1.2.840.10008.1.1"
APPLICATION = "1.2.840.10008.3.1.1.1"
BATCH, CALLERS = 200, 6
SETTLE_S, START_S = 20.0, 240.0
RESIDENT_MB, THREADS = 400, 12
"""More than when it was idle, and it has not given back what callers took."""

ECHO, STORE = 0x0030, 0x0001
COMMAND, LAST = 1, 2


def item(kind: int, content: bytes) -> bytes:
    """One item of an association request."""
    return struct.pack(">BBH", kind, 0, len(content)) + content


def pdu(kind: int, content: bytes) -> bytes:
    """One PDU."""
    return struct.pack(">BBI", kind, 0, len(content)) + content


def request(calling: str) -> bytes:
    """A-ASSOCIATE-RQ for verification and MR images."""
    contexts = b"".join(
        item(
            0x20,
            struct.pack(">BBBB", number, 0, 0, 0)
            + item(0x30, abstract.encode())
            + item(0x40, ExplicitVRLittleEndian.encode())
            + item(0x40, ImplicitVRLittleEndian.encode()),
        )
        for number, abstract in ((1, VERIFICATION), (3, MRImageStorage))
    )
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3.4")
    names = b"SENTINODE".ljust(16) + calling.encode().ljust(16)
    head = struct.pack(">HH", 1, 0) + names + bytes(32)
    return pdu(1, head + item(0x10, APPLICATION.encode()) + contexts + item(0x50, user))


def command(field_: int, sop_class: str, instance: str | None, number: int) -> bytes:
    """A command set, Implicit VR Little Endian (PS3.7 6.3.1)."""
    values: list[tuple[int, bytes]] = [
        (0x0002, sop_class.encode()),
        (0x0100, struct.pack("<H", field_)),
        (0x0110, struct.pack("<H", number)),
        (0x0700, struct.pack("<H", 2)),
        (0x0800, struct.pack("<H", 0x0101 if instance is None else 1)),
    ]
    if instance is not None:
        values.append((0x1000, instance.encode()))
    parts = b""
    for element, value in values:
        padded = value + b"\0" * (len(value) % 2)
        parts += struct.pack("<HHI", 0, element, len(padded)) + padded
    return struct.pack("<HHII", 0, 0, 4, len(parts)) + parts


def data(context: int, control: int, content: bytes) -> bytes:
    """P-DATA-TF with one fragment."""
    return pdu(4, struct.pack(">IBB", len(content) + 2, context, control) + content)


def conversation(calling: str, rng: Random) -> list[bytes]:
    """An association that asks for an echo and stores an object in two fragments."""
    made = seeds.single()
    made.SOPInstanceUID = f"1.2.3.{rng.randrange(10**6)}"
    made.StudyInstanceUID = f"1.2.4.{rng.randrange(20)}"
    del made.PixelData
    if calling == STRANGER:
        made.ImageComments = MARKER.decode()
    content = seeds.encoded(made)
    half = len(content) // 2
    store = command(STORE, MRImageStorage, str(made.SOPInstanceUID), 2)
    return [
        request(calling),
        data(1, COMMAND | LAST, command(ECHO, VERIFICATION, None, 1)),
        data(3, COMMAND | LAST, store),
        data(3, 0, content[:half]),
        data(3, LAST, content[half:]),
        pdu(5, bytes(4)),
    ]


def damaged(pdus: list[bytes], rng: Random) -> list[bytes]:
    """Change bytes, lengths, kinds, order and number of PDUs."""
    found = list(pdus)
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = [one for one in found if one]
        if not found:
            break
        at = rng.randrange(1 if rng.random() < 0.1 else len(found))
        rng.choice(DAMAGES)(found, at, rng)
    return found


def _bytes(found: list[bytes], at: int, rng: Random) -> None:
    found[at] = mutation.of_bytes(found[at], rng)


def _inside(found: list[bytes], at: int, rng: Random) -> None:
    """Change what a PDU carries, and keep its frame."""
    found[at] = pdu(found[at][0], mutation.of_bytes(found[at][6:], rng))


def _dataset(found: list[bytes], at: int, rng: Random) -> None:
    """Change the elements of what is carried, and keep both frames."""
    one = found[at]
    if one[:1] == b"\4" and len(one) > 12:
        content = elements.mutated(one[12:], rng) or mutation.of_bytes(one[12:], rng)
        found[at] = data(one[10], one[11], content)


def _length(found: list[bytes], at: int, rng: Random) -> None:
    lies = [0, 1, 5, 2**16, 2**31, 2**32 - 1, len(found[at])]
    found[at] = found[at][:2] + struct.pack(">I", rng.choice(lies)) + found[at][6:]


def _fragment(found: list[bytes], at: int, rng: Random) -> None:
    """Lie about a fragment: its length, its context, what it is a part of."""
    one = found[at]
    if one[:1] == b"\4" and len(one) > 12:
        lies = [0, 1, 2, 2**31, 2**32 - 1, len(one)]
        length = rng.choice([*lies, len(one) - 10])
        head = struct.pack(">IBB", length, rng.randrange(256), rng.randrange(5))
        found[at] = one[:6] + head + one[12:]


def _kind(found: list[bytes], at: int, rng: Random) -> None:
    found[at] = bytes([rng.randrange(10)]) + found[at][1:]


def _drop(found: list[bytes], at: int, rng: Random) -> None:
    del rng
    del found[at]


def _repeat(found: list[bytes], at: int, rng: Random) -> None:
    found[at:at] = [found[at]] * rng.choice([1, 2, 10])


def _order(found: list[bytes], at: int, rng: Random) -> None:
    other = rng.randrange(len(found))
    found[at], found[other] = found[other], found[at]


def _cut(found: list[bytes], at: int, rng: Random) -> None:
    """End in the middle of a PDU."""
    found[at:] = [found[at][: rng.randrange(len(found[at]) + 1)]]


def _abort(found: list[bytes], at: int, rng: Random) -> None:
    del rng
    found[at:at] = [pdu(7, bytes(4))]


DAMAGES = (_bytes, _inside, _inside, _dataset, _dataset, _length, _fragment, _fragment)
DAMAGES += (_kind, _drop, _repeat, _order, _cut, _abort)


def _answer(sock: socket.socket) -> bytes:
    """Wait a little for an answer, as polite callers do."""
    sock.settimeout(1)
    with contextlib.suppress(TimeoutError):
        return sock.recv(4096)
    sock.settimeout(10)
    return b""


def say(port: int, pdus: list[bytes], rng: Random) -> str:
    """Send PDUs, some a few bytes at a time, and say how the listener ended it."""
    slow = rng.random() < 0.01
    heard = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 10) as sock,
    ):
        sock.settimeout(10)
        for number, one in enumerate(pdus):
            if number == 1 and pdus[0][:1] == b"\1" and rng.random() < 0.9:
                heard += _answer(sock)
            if slow:
                for at in range(0, min(len(one), 400), 40):
                    sock.sendall(one[at : at + 40])
                    time.sleep(0.01)
                sock.sendall(one[400:])
            else:
                sock.sendall(one)
        sock.shutdown(socket.SHUT_WR)
        while chunk := sock.recv(4096):
            heard += chunk
    kinds = {b"\2": "accepted", b"\3": "rejected", b"\7": "aborted", b"": "hung up"}
    begun = kinds.get(heard[:1], "answered otherwise")
    if begun != "accepted":
        return begun
    return "accepted, aborted" if heard[-10:-9] == b"\7" else "accepted, answered"


@dataclass(slots=True)
class Served:
    """A listener in a process of its own, and how it is when nobody calls."""

    folder: Path
    port: int
    process: subprocess.Popen
    resident: int = 0
    threads: int = 0
    outcomes: Counter = field(default_factory=Counter)
    read: set[Path] = field(default_factory=set)

    def status(self, name: str) -> int:
        """A number of the process as the kernel knows it."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(
            next(line for line in text.splitlines() if line.startswith(name)).split()[1]
        )

    def open_associations(self) -> int:
        """Associations that the ledger takes for open."""
        engine = sa.create_engine(f"sqlite:///{self.folder / 'sentinode.db'}")
        with engine.connect() as connection:
            query = "SELECT count(*) FROM association WHERE closed_at IS NULL"
            found = connection.scalar(sa.text(query))
        engine.dispose()
        return int(found)

    def is_foreign(self, path: Path) -> bool:
        """Say whether a file came from a stranger; each is read once."""
        if path in self.read or path.suffix == ".part":
            return False
        self.read.add(path)
        return MARKER in path.read_bytes()

    def faults(self) -> list[str]:
        """What the listener has not given back, or should not have."""
        if self.process.poll() is not None:
            return [f"the listener ended with {self.process.returncode}"]
        files = [path for path in (self.folder / "spool").rglob("*") if path.is_file()]
        found = {
            "C-ECHO is not answered": not echoed(self.port),
            "threads are left": self.status("Threads") > self.threads + THREADS,
            "memory is left": self.status("VmRSS") > self.resident + RESIDENT_MB * 1024,
            "drafts are left": any(path.suffix == ".part" for path in files),
            "associations are left open": self.open_associations() > 0,
            "a stranger's object is kept": any(map(self.is_foreign, files)),
        }
        return [what for what, is_so in found.items() if is_so]


def echoed(port: int) -> bool:
    """Say whether the listener answers C-ECHO."""
    entity = AE(CALLER)
    entity.add_requested_context(VERIFICATION)
    association = pausing(entity.associate("127.0.0.1", port, ae_title="SENTINODE"))
    if not association.is_established:
        return False
    answer = association.send_c_echo()
    association.release()
    return answer.get("Status") == 0


@contextlib.contextmanager
def serving(folder: Path, **settings: str) -> Iterator[Served]:
    """Start a listener that admits one title from this host."""
    schema.upgrade(f"sqlite:///{folder / 'sentinode.db'}")
    port = free_port()
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "dicom_node"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "SENTINODE_DATA_DIR": str(folder),
            "SENTINODE_PORT": str(port),
            "SENTINODE_HOST": "127.0.0.1",
            "SENTINODE_ALLOW": f"{CALLER}@127.0.0.0/8",
            "SENTINODE_MAX_ASSOCIATIONS": "16",
            "SENTINODE_MAX_ASSOCIATIONS_PER_CALLER": "16",
            "SENTINODE_MAX_CALLS_PER_MINUTE": "0",
            "SENTINODE_MIN_FREE_BYTES": "1",
        }
        | settings,
        stderr=log,
    )
    served = Served(folder, port, process)
    try:
        until = time.monotonic() + START_S
        while not (process.poll() is not None or echoed(port)):
            assert time.monotonic() < until, "the listener does not start"
            time.sleep(0.2)
        served.resident, served.threads = (
            served.status("VmRSS"),
            served.status("Threads"),
        )
        yield served
    finally:
        process.kill()
        process.wait()
        log.close()


def storm(served: Served, pdus: int, seed: int, told: Counter) -> list[str]:
    """Send so many PDUs in damaged conversations; return what is wrong after that.

    Args:
        told: Counts `pdus` and `conversations` as they are sent.
    """
    rng = Random(seed)  # noqa: S311 - repeatable
    with ThreadPoolExecutor(CALLERS) as callers:
        while told["pdus"] < pdus:
            batch = []
            for _ in range(min(BATCH, max(10, (pdus - told["pdus"]) // 6))):
                calling = STRANGER if rng.random() < 0.2 else CALLER
                plain = conversation(calling, rng)
                batch.append(plain if rng.random() < 0.05 else damaged(plain, rng))
            numbers = [rng.randrange(2**31) for _ in batch]
            ended = callers.map(
                lambda pair: say(served.port, pair[0], Random(pair[1])),  # noqa: S311 - as above
                zip(batch, numbers, strict=True),
            )
            served.outcomes.update(ended)
            told.update(pdus=sum(map(len, batch)), conversations=len(batch))
            wrong = settled(served)
            if wrong:
                return wrong
    return []


def settled(served: Served) -> list[str]:
    """Wait until nothing is left of the callers; return what is, after a while."""
    until = time.monotonic() + SETTLE_S
    while (wrong := served.faults()) and time.monotonic() < until:
        if served.process.poll() is not None:
            break
        time.sleep(0.2)
    return wrong
