"""How many workers and listeners do a hospital, a region, a country need?

`python -m tests.benchmarks.growth` simulates working days with the costs that
`make bench` measured, and prints the least of each that suffices. `--whole` first
measures one host: `sentinode up` on PostgreSQL and Redis, and a stream of studies.

The model, in full: studies are ready at random (Poisson) moments of a working day with
a busy hour; one is a dynamic series of IMAGES images and its marks, sent over one
association; its analysis, and its rows, grow with the images as they do from 9 to 120
of them; a listener process takes objects one after another for its CPU time each; an
analysis worker works on one study at a time, for a time that varies like a gamma
distribution of shape 4; one process delivers. A number of workers suffices when 95 of
100 studies wait less than PATIENCE_S for one. Nothing fails, and nobody else uses the
processors: plan twice as many.
"""

import heapq
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from dicom_node import db
from dicom_node.tables import DeliveryRow, DeliveryState
from tests.benchmarks.receiving import theirs, together
from tests.benchmarks.studies import PHASES, SLICES, marked
from tests.grown import INSTANCES
from tests.outages.brokers import Redis
from tests.peers import Sentinode, wait_until
from tests.postgres import Postgres, binaries
from tests.quick_models import write_models

PATIENCE_S = 30.0
SQLITE_GB = 20.0
"""A year's rows from which on a server that is backed up as it runs is advised."""

SHAPE = 4.0
IMAGES, MB_PER_IMAGE = 1200, 0.5
BUSY = np.array([0] * 7 + [4, 9, 12, 13, 12, 8, 10, 12, 10, 6, 3, 1] + [0] * 5)
"""Shares of a day's studies in each hour; 13 of 100 in the busiest."""

SITES = {"a hospital": 12, "a region of 40 hospitals": 480, "a country of 2000": 24_000}


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured CPU milliseconds, and bytes in the database, of an object or study."""

    receive_ms: float
    analyse_ms: float
    deliver_ms: float
    ledger_ms: float
    ledger_bytes: float


def ready_at(studies: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the seconds of a day at which studies are ready, (n,), ascending."""
    number = rng.poisson(studies)
    hours = rng.choice(24, size=number, p=BUSY / BUSY.sum())
    return np.sort((hours + rng.random(number)) * 3600.0)


def waits(
    ready: NDArray[np.float64], taken: NDArray[np.float64], workers: int
) -> NDArray[np.float64]:
    """Return the seconds that each study waits for the next free worker, (n,)."""
    free = [0.0] * workers
    waited = np.zeros(len(ready))
    for place, (at, seconds) in enumerate(zip(ready, taken, strict=True)):
        begun = max(at, heapq.heappop(free))
        waited[place] = begun - at
        heapq.heappush(free, begun + seconds)
    return waited


def least(studies: int, mean_s: float, days: int, seed: int) -> tuple[int, float]:
    """Return the fewest workers that suffice, and the wait of 95 of 100 studies."""
    workers = 1
    while True:
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(days):
            ready = ready_at(studies, rng)
            taken = rng.gamma(SHAPE, mean_s / SHAPE, len(ready))
            found.append(waits(ready, taken, workers))
        p95 = float(np.quantile(np.concatenate(found), 0.95))
        if p95 < PATIENCE_S:
            return workers, p95
        workers += 1


def simulate(costs: Costs, days: int, seed: int) -> list[dict[str, object]]:
    """Return what each site needs."""
    rows = []
    for name, studies in SITES.items():
        receive_s = costs.receive_ms * IMAGES / 1000
        busy = studies * BUSY.max() / BUSY.sum() / 3600
        workers, wait = least(studies, costs.analyse_ms / 1000, days, seed)
        listeners, _ = least(studies, receive_s, days, seed)
        ledger = busy * costs.ledger_ms / 1000
        per_year = studies * 250
        gigabytes = per_year * costs.ledger_bytes / 1e9
        rows.append(
            {
                "site": name,
                "studies_per_day": studies,
                "listeners": listeners,
                "workers": workers,
                "wait_p95_s": round(wait, 1),
                "deliveries_busy": round(busy * costs.deliver_ms / 1000, 3),
                "database_busy": round(ledger, 3),
                "database_gb_per_year": round(gigabytes, 1),
                "images_tb_per_year": round(per_year * IMAGES * MB_PER_IMAGE / 1e6, 1),
                "database": "SQLite"
                if listeners == 1 and workers == 1 and gigabytes < SQLITE_GB
                else "PostgreSQL",
            }
        )
    return rows


def whole_host(studies: int) -> float:
    """Return studies per minute of one host: PostgreSQL, Redis, listener, workers."""
    folder = binaries()
    assert folder is not None, "PostgreSQL is not installed: run `make peers`"
    with TemporaryDirectory(prefix="sentinode-host-") as name:
        place = Path(name)
        cluster, broker = Postgres(folder), Redis(place)
        cluster.start()
        broker.start()
        try:
            return _stream(place, cluster.create(), broker.url, studies)
        finally:
            broker.kill()
            cluster.stop()
            cluster.remove()


def _stream(folder: Path, database: str, broker: str, studies: int) -> float:
    lots = []
    for number in range(studies):
        place = folder / f"study-{number}"
        place.mkdir()
        for each, one in enumerate(marked(f"stream {number}", 5, 24)):
            one.save_as(place / f"{each:03}.dcm", enforce_file_format=True)
        lots.append(sorted(place.iterdir()))
    site = Sentinode(folder / "site", write_models(folder / "models"))
    site.extra = {
        "SENTINODE_DATABASE_URL": database,
        "SENTINODE_BROKER_URL": broker,
        "SENTINODE_MAX_CALLS_PER_MINUTE": "0",
    }
    with theirs(folder / "pacs", "storescp", "+B") as pacs:
        site.use(pacs.address, "1", "--allow", "BENCH")
        site.start()
        try:
            started = time.monotonic()
            for place in range(0, studies, 4):
                together(str(site), lots[place : place + 4])
            wait_until(lambda: _sent(database) >= studies, "every report", 1800)
            return studies / (time.monotonic() - started) * 60
        finally:
            site.stop()


def _sent(database: str) -> int:
    engine = db.connect(database)
    with db.reading(engine)() as session:
        reported = sa.select(sa.func.count(sa.distinct(DeliveryRow.study_uid))).where(
            DeliveryRow.state == DeliveryState.SENT
        )
        found = session.scalar(reported) or 0
    engine.dispose()
    return int(found)


def costs_of(path: Path) -> Costs:
    """Read what `make bench` wrote, and extend it to studies of IMAGES images."""
    figures = json.loads(path.read_text())["figures"]

    def value(start: str) -> float:
        found = next(one for one in figures if one["what"].startswith(start))
        return statistics.median(found["ours"])

    few, many = value("study of 9 images"), value("of it: analysis")
    per_image = (many + value("of it: delivery") - few) / (PHASES * SLICES - 9)
    row = value("of it: an instance, PostgreSQL")
    size = value(f"ledger, size per study of {INSTANCES} instances, PostgreSQL")
    return Costs(
        receive_ms=value("listener, CPU per instance"),
        analyse_ms=many + (IMAGES - PHASES * SLICES) * per_image,
        deliver_ms=value("of it: delivery"),
        ledger_ms=value("ledger, whole study, PostgreSQL"),
        ledger_bytes=size + (IMAGES - INSTANCES) * row,
    )


@click.command()
@click.option("--costs", type=click.Path(path_type=Path), default=Path("bench.json"))
@click.option("--days", default=20, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--whole", type=int, help="Measure one host with so many studies.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write it.")
def main(costs: Path, days: int, seed: int, whole: int | None, to: Path | None) -> None:
    """Print what a hospital, a region and a country need."""
    console = Console(width=140)
    found: dict[str, object] = {}
    if whole:
        rate = found["studies_per_minute"] = whole_host(whole)
        console.print(
            f"one host, PostgreSQL and Redis: {rate:.1f} studies of 120 images a "
            "minute, from the first object to the last report"
        )
    rows = simulate(costs_of(costs), days, seed)
    table = Table(title=f"{days} days, {IMAGES} images a study", title_justify="left")
    for head in rows[0]:
        table.add_column(head.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    if to is not None:
        to.write_text(json.dumps(found | {"sites": rows}, indent=2))


if __name__ == "__main__":
    main()
