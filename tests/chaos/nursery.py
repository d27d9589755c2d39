"""A warm parent: it has imported what our processes need, and forks them.

A process that is forked here runs the same `python -m MODULE ARGUMENTS` as one that
`sentinode up` starts, a second earlier: the imports are done. It is a session of its
own, so that a kill reaches it and its children and nobody else. No task module is
imported here, so each process still imports and registers its own.
"""

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import triggers

PR_SET_PDEATHSIG = 1
PATIENCE_S = 600.0
WARM = (
    "billiard.pool",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.beat",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "dicom_node.listener",
    "kombu.transport.redis",
    "psycopg",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "worker.cli",
    "worker.pipeline",
    "worker.serving",
    "worker.retention",
    "worker.chronicle",
    "worker.parking",
    "worker.marked",
)


@dataclass(slots=True)
class Forked:
    """A process of the nursery; `code` is as `subprocess` has it, None while alive."""

    pid: int
    code: int | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    def kill_group(self) -> None:
        """Kill it and all that it has forked."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.ended.wait(0.1)


class Nursery:
    """The warm parent, asked over a socket; any thread may ask."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            cwd=Path(__file__).parent.parent.parent,
        )
        theirs.close()
        self._socket = ours
        self._lock = threading.Lock()
        self._started: dict[int, Forked] = {}
        self._news = threading.Condition()
        self._forked: dict[int, Forked] = {}
        self._number = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def fork(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        role: str | None = None,
    ) -> Forked:
        """Start `python -m ...`; its output goes to `log`, its errors beside it."""
        with self._lock:
            self._number += 1
            number = self._number
            order = {
                "number": number,
                "command": list(command),
                "environment": dict(environment),
                "log": str(log),
                "role": role,
            }
            self._socket.sendall(json.dumps(order).encode() + b"\n")
        with self._news:
            done = self._news.wait_for(lambda: number in self._started, PATIENCE_S)
            assert done, "the nursery does not answer"
            return self._started.pop(number)

    def close(self) -> None:
        """End it, and with it all that it has forked."""
        self._socket.close()
        self._process.kill()
        self._process.wait(10)

    def _listen(self) -> None:
        try:
            with self._socket.makefile("r") as stream:
                for line in stream:
                    self._hear(json.loads(line))
        except OSError:
            return

    def _hear(self, news: Mapping[str, int]) -> None:
        with self._news:
            if "number" in news:
                forked = Forked(news["pid"])
                self._forked[news["pid"]] = forked
                self._started[news["number"]] = forked
            else:
                forked = self._forked.pop(news["pid"])
                forked.code = news["code"]
                forked.ended.set()
            self._news.notify_all()


def serve(control: socket.socket) -> None:
    """Fork what is asked for until the other side is gone."""
    for module in WARM:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    unread = b""
    while True:
        ready, _, _ = select.select([control, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _report_dead(control)
        if control in ready:
            heard = control.recv(65536)
            if not heard:
                return
            *lines, unread = (unread + heard).split(b"\n")
            for line in lines:
                _fork(json.loads(line), control, (woken, waker))


def _fork(
    order: Mapping[str, object], control: socket.socket, others: Sequence[int]
) -> None:
    pid = os.fork()
    if pid == 0:
        for handle in (*others, control.fileno()):
            os.close(handle)
        _live(order)
    _tell(control, {"number": order["number"], "pid": pid})


def _report_dead(control: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        _tell(control, {"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _tell(control: socket.socket, news: Mapping[str, int]) -> None:
    control.sendall(json.dumps(news).encode() + b"\n")


def _live(order: Mapping[str, object]) -> None:
    """Become the process that was asked for; never returns."""
    code = 1
    try:
        _become(order)
        module, *arguments = order["command"]
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - the last frame of a process
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _become(order: Mapping[str, object]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(order["log"], flags, 0o600)
    error = os.open(f"{order['log']}.err", flags, 0o600)
    for number, handle in enumerate((null, out, error)):
        os.dup2(handle, number)
        os.close(handle)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(Path(order["log"]).parent)
    random.seed()
    if order["role"] is not None:
        triggers.arm(order["role"], Path(order["environment"][triggers.FOLDER]))


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
