"""What one study costs the database when there are few others, and when there are many.

The same work, in turn on a ledger of 100 studies and on a large one: medians and their
ratio. Of PostgreSQL the CPU time of the server process counts too. Timings are never
asserted.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import click
import sqlalchemy as sa

from dicom_node import audit, db, schema
from dicom_node.db import Sessions, now
from dicom_node.settings import load
from tests import grown, study_work
from tests.benchmarks.measuring import Line
from tests.postgres import Postgres, binaries
from tests.study_work import Desk
from worker import chronicle
from worker.metrics import counts, tally
from worker.metrics.counts import Names
from worker.monitor import faults, status
from worker.settings import WorkerSettings

FEW, MANY = 100, 100_000
ROUNDS = 10
EACH = 10
"""Studies that one round works on in each ledger."""

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Side:
    """One ledger: how many studies it holds, and where."""

    studies: int
    engine: sa.Engine
    folder: Path

    @property
    def sessions(self) -> Sessions:
        """Sessions that write."""
        return db.writing(self.engine)

    @property
    def settings(self) -> WorkerSettings:
        """Settings with the destinations that studies go to."""
        pacs = (study_work.PACS, study_work.ARCHIVE)
        return load(WorkerSettings, data_dir=self.folder, pacs=pacs)


@dataclass(slots=True)
class Figures:
    """Milliseconds per study in each round, few studies and many in the ledger.

    `looks` are the milliseconds of each look at the large ledger.
    """

    wall: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    cpu: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    looks: dict[str, tuple[float, float]] = field(default_factory=dict)
    bytes_per_study: float = 0.0
    bytes_per_instance: float | None = None

    def medians(self, kind: str) -> tuple[float, float, float]:
        """Return the medians and their ratio, of "wall" or of "cpu"."""
        few, many = map(statistics.median, getattr(self, kind))
        return few, many, many / few


def measure(database: str, studies: int, rounds: int = ROUNDS) -> Figures:
    """Fill two ledgers and work on both in turn.

    Args:
        database: "sqlite" or "postgresql".
        studies: How many the larger one holds.
        rounds: How often each is worked on.
    """
    figures = Figures()
    with _ledgers(database, (FEW, studies)) as sides:
        figures.bytes_per_study = _size(sides[1]) / studies
        figures.bytes_per_instance = _instance_size(sides[1])
        for side in sides:
            _work(side, 2)
        for _ in range(rounds):
            for place, side in enumerate(sides):
                wall, cpu = _work(side, EACH)
                figures.wall[place].append(wall)
                figures.cpu[place].append(cpu)
        few, many = (_looks(side) for side in sides)
        figures.looks = {name: (few[name], many[name]) for name in many}
    return figures


@contextmanager
def _ledgers(database: str, sizes: tuple[int, int]) -> Iterator[list[Side]]:
    cluster = None
    with tempfile.TemporaryDirectory(prefix="sentinode-ledger-") as name:
        if database == "postgresql":
            folder = binaries()
            assert folder is not None, "PostgreSQL is not installed: run `make peers`"
            cluster = Postgres(folder, durable=True)
            cluster.start()
        sides = []
        for size in sizes:
            folder = Path(name) / str(size)
            folder.mkdir()
            url = cluster.create() if cluster else f"sqlite:///{folder / 'ledger.db'}"
            schema.upgrade(url)
            grown.fill(url, size)
            engine = db.connect(url)
            if cluster:
                _settle(engine)
            sides.append(Side(size, engine, folder))
        try:
            yield sides
        finally:
            for side in sides:
                side.engine.dispose()
            if cluster:
                cluster.stop()
                cluster.remove()


def _settle(engine: sa.Engine) -> None:
    """Do what autovacuum would have done over the years."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")
        connection.exec_driver_sql("CHECKPOINT")


def _size(side: Side) -> float:
    pages = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
    server = "SELECT pg_database_size(current_database())"
    is_file = side.engine.dialect.name == "sqlite"
    with side.engine.connect() as connection:
        return float(connection.exec_driver_sql(pages if is_file else server).scalar())


def _instance_size(side: Side) -> float | None:
    """Return the bytes of an instance's row with its indexes, where they are known."""
    if side.engine.dialect.name == "sqlite":
        return None
    asked = "SELECT pg_total_relation_size('instance')::float / count(*) FROM instance"
    with side.engine.connect() as connection:
        return float(connection.exec_driver_sql(asked).scalar_one())


def _work(side: Side, studies: int) -> tuple[float, float]:
    """Return wall and CPU milliseconds per study."""
    desk = Desk(side.sessions, side.settings)
    server = _server(side.engine)
    cpu, wall = time.process_time() + _cpu(server), time.perf_counter()
    for _ in range(studies):
        study_work.whole(desk, now())
    wall = time.perf_counter() - wall
    cpu = time.process_time() + _cpu(server) - cpu
    return wall / studies * 1000, cpu / studies * 1000


def _server(engine: sa.Engine) -> int | None:
    """Return the server's process of the one connection that the pool has."""
    if engine.dialect.name == "sqlite":
        return None
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def _cpu(pid: int | None) -> float:
    if pid is None:
        return 0.0
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / TICKS


def _looks(side: Side) -> dict[str, float]:
    """Return the milliseconds of what looks at the whole ledger, and how often."""
    names = Names.of(side.settings)
    sessions = db.reading(side.engine)
    history = tally.Tally(names)
    trail = audit.trail_of(side.settings)

    def follow() -> None:
        with side.sessions.begin() as session:
            while chronicle.follow(session, trail):
                pass

    def idle_sweep() -> None:
        at = now() + timedelta(minutes=5)
        study_work.sweep(side.sessions, study_work.SILENT, side.settings, at)

    def looking(look: Callable[[db.Session], object]) -> Callable[[], None]:
        def run() -> None:
            with sessions() as session:
                look(session)

        return run

    parts: dict[str, Callable[[], None]] = {
        "distributions, once": looking(history.update),
        "distributions": looking(history.update),
        "metrics scrape": looking(lambda session: counts.look(session, names, now())),
        "status page": looking(lambda session: status.look(session, names, now())),
        "faults": looking(lambda session: list(faults.of_rows(session, names))),
        "audit, first": follow,
        "audit, each minute": follow,
        "sweep": idle_sweep,
        "sweep with nothing due": idle_sweep,
    }
    return {name: _time(part) for name, part in parts.items()}


def _time(part: Callable[[], None]) -> float:
    started = time.perf_counter()
    part()
    return (time.perf_counter() - started) * 1000


def lines(rounds: int, studies: int = MANY) -> list[Line]:
    """Measure P12 on both databases."""
    found = []
    for database, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL")):
        figures = measure(database, studies, 2 * rounds)
        few, many = figures.cpu
        each = figures.bytes_per_instance
        found += [
            Line(
                "P12",
                f"ledger, whole study, {name}, at {studies} studies, CPU",
                "ms",
                many,
                f"at {FEW}",
                few,
                1.2,
            ),
            Line(
                "",
                f"ledger, size per study of {grown.INSTANCES} instances, {name}",
                "bytes",
                [figures.bytes_per_study],
            ),
            *(
                [Line("", f"of it: an instance, {name}", "bytes", [each])]
                if each is not None
                else []
            ),
            *(
                Line("", f"{name} at {studies} studies: {look}", "ms", [taken])
                for look, (_, taken) in figures.looks.items()
            ),
        ]
    return found


@click.command()
@click.option("--studies", default=MANY, show_default=True)
@click.option("--rounds", default=ROUNDS, show_default=True)
@click.option("--database", type=click.Choice(("sqlite", "postgresql")), required=True)
def main(studies: int, rounds: int, database: str) -> None:
    """Print what a study costs the database at 100 studies, and at many."""
    figures = measure(database, studies, rounds)
    click.echo(f"{database}, {figures.bytes_per_study / 1000:.1f} kB per study")
    for kind in ("wall", "cpu"):
        few, many, ratio = figures.medians(kind)
        click.echo(
            f"{kind}: {few:.1f} ms per study at {FEW}, {many:.1f} at {studies}: "
            f"{ratio:.2f}x"
        )
    for name, (few, many) in figures.looks.items():
        click.echo(f"{name}: {few:.1f} ms at {FEW}, {many:.1f} at {studies}")


if __name__ == "__main__":
    main()
