"""One installation under fire: our processes, broker, database and PACS, kept alive.

The commands of our processes are those of `sentinode up`, and what it does when one
of them dies is done here: start it again, and on SQLite let its claims go.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

from dicom_node import db
from dicom_node.settings import load
from dicom_node.tables import DeliveryRow, StudyRow
from tests.chaos import points, triggers
from tests.chaos.load import MODALITY
from tests.chaos.nursery import Forked, Nursery
from tests.peers import Orthanc, free_port, wait_until
from tests.postgres import Postgres, binaries
from worker import models, standalone
from worker.settings import WorkerSettings

OURS = (points.ANALYSIS, points.DISPATCH, points.BEAT, points.LISTENER)
POOLS = {points.ANALYSIS, points.DISPATCH}
READY_S = 600.0
"""Long, because a busy host is no fault of what is tried here."""

WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it must not outlive us, however we end."""

FAST = {
    "HOST": "127.0.0.1",
    "ALLOW": f"{MODALITY}@127.0.0.1",
    "QUIET_PERIOD": "1.5",
    "ANSWER_TIMEOUT": "10",
    "RESEND_AFTER": "1",
    "RETRY_AFTER": "0.3",
    "MIN_FREE_BYTES": "0",
    "MAX_PDU": "4096",
    "HTTP_PORT": "0",
    "MONITORS": "127.0.0.1",
}
"""Real settings, only shorter; a PDU is small, so that an image comes in several."""


@dataclass(slots=True)
class Death:
    """Who died, how, and when it may be started again."""

    name: str
    pid: int
    code: int | None


@dataclass(slots=True)
class Site:
    """An installation in a folder of its own, from `start` to `close`."""

    folder: Path
    database: str
    nursery: Nursery
    models: Path
    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, Forked] = field(default_factory=dict)
    again_at: dict[str, float] = field(default_factory=dict)
    deaths: list[Death] = field(default_factory=list)
    broker: subprocess.Popen | None = None
    postgres: Postgres | None = None
    pacs: Orthanc | None = None
    engine: sa.Engine | None = None
    settings: WorkerSettings | None = None
    port: int = 0
    restart_pause: float = 0.0
    closed: bool = False

    @property
    def orders(self) -> triggers.Orders:
        return triggers.Orders(self.folder / "orders")

    def start(self) -> "Site":
        """Bring everything up; return when a study may be sent."""
        self.folder.mkdir(parents=True)
        self.port = free_port()
        self._start_database()
        self.pacs = Orthanc(
            self.folder / "pacs", self.port, options={"DicomAlwaysAllowFind": True}
        )
        self.pacs.prefix = WITH_US
        self.environment = self._environment()
        self.settings = self._settings()
        self.pacs.start()
        self.start_broker()
        self._prepare("db", "upgrade")
        self.engine = db.connect(self.settings.database)
        for manifest in models.installed(self.models):
            self._prepare("models", "activate", manifest.reference)
        self.spawn_all()
        wait_until(self.is_ready, "the start", READY_S)
        return self

    def spawn_all(self) -> None:
        """Start all processes of ours."""
        for name in OURS:
            self._spawn(name)

    def is_ready(self) -> bool:
        """Say whether objects may be sent."""
        return self.listens()

    def close(self) -> None:
        """End everything that was started here, and start nothing again."""
        self.closed = True
        for each in self.processes.values():
            each.kill_group()
        if self.engine is not None:
            self.engine.dispose()
        if self.broker is not None:
            self.broker.kill()
            self.broker.wait(10)
        if self.pacs is not None and self.pacs.process is not None:
            self.pacs.process.kill()
            self.pacs.process.wait(10)
        if self.postgres is not None:
            with suppress(subprocess.CalledProcessError):
                self.postgres.stop()

    def remove(self) -> None:
        """Remove its folders, when nobody wants to look at them."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.postgres is not None:
            shutil.rmtree(self.postgres.folder, ignore_errors=True)

    def tend(self) -> None:
        """Start again what has died: ours, broker, database, PACS."""
        if self.closed:
            raise RuntimeError("the site is closed")
        at = time.monotonic()
        for name, process in list(self.processes.items()):
            if process.ended.is_set() and name not in self.again_at:
                self.deaths.append(Death(name, process.pid, process.code))
                self.again_at[name] = at + self.restart_pause
                self._release(name)
            if name in self.again_at and at >= self.again_at[name]:
                del self.again_at[name]
                self._spawn(name)
        if self.broker is not None and self.broker.poll() is not None:
            self.deaths.append(
                Death(points.BROKER, self.broker.pid, self.broker.returncode)
            )
            self.start_broker()
        if self.pacs.process.poll() is not None:
            code = self.pacs.process.returncode
            self.deaths.append(Death(points.PACS, self.pacs.process.pid, code))
            self.pacs.start()
        if self.postgres is not None and not is_alive(self.postmaster()):
            self.deaths.append(Death(points.DATABASE, self.postmaster(), None))
            self._restart_postgres()

    def skip_leases(self, died_at: datetime, *, also_of_the_living: bool) -> None:
        """Let the claims of dead processes end now, as if their leases had run out.

        A claim on a study names its process; one on a delivery does not, so those
        end that were there when a process that sends died. When a server of the
        database dies, a claim may be committed and its holder not know it.
        """
        at = db.now()
        with db.writing(self.engine).begin() as session:
            claimed = sa.select(StudyRow).where(StudyRow.lease_until > at)
            for study in session.scalars(claimed):
                holder = int(study.claimed_by.rpartition(":")[2])
                if also_of_the_living or not is_alive(holder):
                    study.lease_until = at
            session.execute(
                sa.update(DeliveryRow)
                .where(
                    DeliveryRow.lease_until > at,
                    DeliveryRow.lease_until <= died_at + self.settings.delivery_lease,
                )
                .values(lease_until=at)
            )

    def await_quiet(self) -> None:
        """Wait until all that a run needs is up again."""
        deadline = time.monotonic() + READY_S
        while self.again_at or not self.listens():
            self.tend()
            assert time.monotonic() < deadline, "a process does not come up again"
            time.sleep(0.05)

    def listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def postmaster(self) -> int:
        """Return the process of the database server."""
        return self.postgres.postmaster()

    def victim(self, process: str, rng: random.Random) -> int:
        """Return a process to kill from outside; of a pool, any part of it."""
        if process == points.BROKER:
            return self.broker.pid
        if process == points.PACS:
            return self.pacs.process.pid
        pid = self.processes[process].pid
        if process in POOLS:
            return rng.choice([pid, *children(pid)])
        return pid

    def read(self) -> sa.orm.Session:
        """Open a session that only looks."""
        return db.reading(self.engine)()

    def command(
        self, *arguments: str, timeout: float = READY_S
    ) -> tuple[int, str, str]:
        """Run one command of the command line; return its code and what it said."""
        log = self.folder / "command.out"
        for path in (log, log.with_name("command.out.err")):
            path.unlink(missing_ok=True)
        given = ("worker.cli", *arguments, "--data-dir", str(self.folder))
        done = self.nursery.fork(given, self.environment, log)
        if not done.ended.wait(timeout):
            done.kill_group()
            return -1, "", f"`sentinode {' '.join(arguments)}` did not end"
        return done.code, log.read_text(), log.with_name("command.out.err").read_text()

    def _spawn(self, name: str) -> None:
        module_and_arguments = standalone.commands(self.settings)[name][2:]
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        self.processes[name] = self.nursery.fork(
            module_and_arguments, self.environment, log, name
        )

    def _release(self, name: str) -> None:
        """As `sentinode up` does when one of its children has died."""
        dead = frozenset({name}) & standalone.CLAIMANTS
        standalone.release_claims(self.settings, dead)

    def _environment(self) -> dict[str, str]:
        given = {
            **FAST,
            "DATA_DIR": str(self.folder),
            "PORT": str(self.port),
            "PACS": str(self.pacs),
            "MODELS_DIR": str(self.models),
        }
        if self.postgres is not None:
            given["DATABASE_URL"] = self.postgres.url("chaos")
            given["BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
        kept = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            **{f"SENTINODE_{name}": value for name, value in given.items()},
            triggers.FOLDER: str(self.folder / "orders"),
            "OMP_NUM_THREADS": "1",
            "TCP_NODELAY": "1",
        }

    def _settings(self) -> WorkerSettings:
        prefix = "SENTINODE_"
        given = {
            name.removeprefix(prefix).lower(): value
            for name, value in self.environment.items()
            if name.startswith(prefix) and name != triggers.FOLDER
        }
        return load(WorkerSettings, **given)

    def start_broker(self) -> None:
        """Start an empty broker, as `sentinode up` does, or Redis."""
        log = (self.folder / "broker.log").open("ab")
        command = standalone.commands(self.settings).get(standalone.BROKER)
        if command is None:
            port = self.settings.broker.rpartition(":")[2].partition("/")[0]
            command = ("redis-server", "--port", port, "--bind", "127.0.0.1")
            command += ("--save", "", "--appendonly", "no", "--dir", str(self.folder))
        else:
            path = self.settings.broker_socket
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
        with log:
            self.broker = subprocess.Popen([*WITH_US, *command], stdout=log, stderr=log)

    def _start_database(self) -> None:
        if self.database == points.SQLITE:
            return
        self.postgres = Postgres(binaries())
        self.postgres.start()
        engine = sa.create_engine(
            self.postgres.url("postgres"), isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE DATABASE chaos"))
        engine.dispose()

    def _restart_postgres(self) -> None:
        """Start it as a service manager does: again and again, until it can."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                self.postgres.start()
            except subprocess.CalledProcessError:
                assert time.monotonic() < deadline, "PostgreSQL does not start"
                time.sleep(0.2)
            else:
                return

    def _prepare(self, *arguments: str) -> None:
        code, _, error = self.command(*arguments)
        assert code == 0, error


def children(pid: int) -> list[int]:
    """Return the children of a process, oldest first."""
    try:
        path = Path(f"/proc/{pid}/task/{pid}/children")
        return [int(each) for each in path.read_text().split()]
    except FileNotFoundError:
        return []


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that waits for its parent is dead."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def kill(pid: int) -> bool:
    """Kill a process; False when it was gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
