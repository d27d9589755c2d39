"""`sentinode up` itself is killed: what it started must end, and let go of all.

A real process tree, as an administrator starts it. The kernel tells the children of
the death of their parent; what they forked themselves must end with them.
"""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import points
from tests.chaos.nursery import Nursery
from tests.chaos.site import WITH_US, Site

GONE_S = 15.0


@dataclass(slots=True)
class UpSite(Site):
    """An installation under `sentinode up`."""

    tree: subprocess.Popen | None = None

    def spawn_all(self) -> None:
        """Start the tree; it is up when it says so."""
        log = self.folder / "logs" / "up.err"
        log.parent.mkdir(exist_ok=True)
        with log.open("ab") as stream:
            self.tree = subprocess.Popen(
                [
                    *WITH_US,
                    *(sys.executable, "-m", "worker.cli", "up"),
                    *("--data-dir", str(self.folder)),
                ],
                stdout=subprocess.PIPE,
                stderr=stream,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        os.set_blocking(self.tree.stdout.fileno(), False)

    def start_broker(self) -> None:
        """Leave the broker to the tree."""

    def is_ready(self) -> bool:
        line = self.tree.stdout.read()
        return bool(line) and line.startswith(b"ready")

    def close(self) -> None:
        if self.tree is not None:
            self.tree.kill()
            self.tree.wait(10)
            self.tree.stdout.close()
        for pid in tree_of(self.folder):
            os.kill(pid, signal.SIGKILL)
        Site.close(self)

    def kill_tree(self) -> None:
        """Kill `sentinode up` alone."""
        self.tree.kill()
        self.tree.wait(10)
        self.tree.stdout.close()
        self.tree = None

    def remains(self) -> list[str]:
        """Wait for the children to let go; say what they still hold if they do not."""
        until = time.monotonic() + GONE_S
        while (found := self._held()) and time.monotonic() < until:
            time.sleep(0.05)
        return found

    def _held(self) -> list[str]:
        found = [f"process {_command(pid)}" for pid in tree_of(self.folder)]
        if self.listens():
            found.append("the port is still listened on")
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self.settings.broker_socket)) == 0:
                found.append("a broker still answers")
        return found + self._locks()

    def _locks(self) -> list[str]:
        path = self.folder / "sentinode.db"
        connection = sqlite3.connect(path, timeout=0, isolation_level=None)
        try:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            return [f"the database is still held: {error}"]
        finally:
            connection.close()
        return []


def new(folder: Path, nursery: Nursery, models: Path) -> UpSite:
    """Return an installation that `sentinode up` runs, on SQLite."""
    return UpSite(folder, points.SQLITE, nursery, models)


def tree_of(folder: Path) -> list[int]:
    """Return the processes that were started for a data folder."""
    wanted = f"SENTINODE_DATA_DIR={folder}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except (OSError, ProcessLookupError):
            continue
    return found


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return str(pid)
    return f"{pid} {b' '.join(words).decode(errors='replace')}"
