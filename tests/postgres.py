"""A private PostgreSQL cluster from Debian's packages, on a Unix socket of its own."""

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import sqlalchemy as sa

PORT = 5432  # names the socket; no TCP port is opened
OWNER = "postgres"


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL server, None when there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Postgres:
    """One cluster in a temporary folder; PostgreSQL refuses to run as root."""

    def __init__(self, folder: Path, *, durable: bool = False):
        self._bin = folder
        self._flush = "" if durable else "-F "
        self.folder = Path(tempfile.mkdtemp(prefix="sentinode-pg-"))
        self._data = self.folder / "data"
        if os.geteuid() == 0:
            shutil.chown(self.folder, OWNER, OWNER)
        self._run("initdb", "-D", self._data, "-U", OWNER, "-A", "trust", "-N")

    def start(self) -> None:
        options = f"{self._flush}-c listen_addresses='' -k {self.folder} -p {PORT}"
        log = self.folder / "log"
        self._run("pg_ctl", "-D", self._data, "-w", "-l", log, "-o", options, "start")

    @property
    def runs(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def stop(self) -> None:
        """Stop at once, as a crash does: nothing is finished first."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "immediate", "stop")

    def postmaster(self) -> int:
        """Return the process that the server was started as, dead or alive."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        return (
            f"postgresql+psycopg://{OWNER}@/{database}?host={self.folder}&port={PORT}"
        )

    def create(self, template: str = "template1") -> str:
        """Create a database and return its URL."""
        name = f"t_{uuid.uuid4().hex}"
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        engine.dispose()
        return self.url(name)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._bin / program), *map(str, arguments)]
        if os.geteuid() == 0:
            command = ["runuser", "-u", OWNER, "--", *command]
        subprocess.run(
            command,
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
