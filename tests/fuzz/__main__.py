"""The long form, `make fuzz`: `python -m tests.fuzz --inputs N --pdus N --seed S`.

Targets run in processes of their own, some at a time. Each gets at least MINIMUM
inputs; the fast ones, which read the network's framing and people's text, get the rest.
Exit status 1 when anything was found; the inputs that did it are kept.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.fuzz import targets, wire

MINIMUM = 20_000
COVERAGE = re.compile(rb"cov: (\d+)")
PDUS = "pdu"
CPUS = os.cpu_count() or 1


@dataclass(slots=True)
class Row:
    """What came of one target."""

    target: str
    inputs: int = 0
    coverage: int | None = None
    outcomes: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def shares(total: int, names: list[str]) -> dict[str, int]:
    """Share inputs out: a floor for each target, the rest by weight."""
    weights = {name: targets.all_targets()[name].weight for name in names}
    floor = min(MINIMUM, total // len(names))
    rest = max(0, total - floor * len(names))
    parts = sum(weights.values()) or 1
    return {name: floor + -(-rest * weights[name] // parts) for name in names}


def run(row: Row, runs: int, seed: int, kept: Path) -> None:
    """Run one target to its end, again from where it died when its process does."""
    begun = time.monotonic()
    done = 0
    while done < runs:
        with tempfile.TemporaryDirectory(dir=kept) as scratch:
            folder = Path(scratch)
            code = _attempt(row, runs - done, seed + done, folder, done)
            _keep(row.target, folder, kept, code)
        if code == 0:
            break
        row.findings.append(f"the process ended with {code}")
        if row.inputs == done or len(row.findings) > 20:
            break
        done = row.inputs
    row.seconds = round(time.monotonic() - begun, 1)


def _attempt(row: Row, runs: int, seed: int, folder: Path, before: int) -> int:
    command = [sys.executable, "-m", "tests.fuzz.engine", row.target, str(runs)]
    noise = folder / "stderr"
    with noise.open("wb") as err:
        child = subprocess.Popen(
            [*command, str(seed), str(folder)],
            stdout=subprocess.PIPE,
            stderr=err,
        )
        for line in child.stdout or ():
            said = json.loads(line)
            row.inputs = before + said["inputs"]
            row.outcomes = max(row.outcomes, said["outcomes"])
            row.findings = sorted({*row.findings, *said["findings"]})
        code = child.wait()
    found = COVERAGE.findall(noise.read_bytes())
    if found:
        row.coverage = max(row.coverage or 0, int(found[-1]))
    return code


def _keep(name: str, folder: Path, kept: Path, code: int) -> None:
    """Keep the inputs of findings, and the one that a process died of."""
    for path in folder.glob("finding-*"):
        path.rename(kept / f"{name}-{path.name}-{int(time.time())}")
    current = folder / "current"
    if code and current.exists():  # it may have died before its first input
        slot = current.read_bytes()
        size = int.from_bytes(slot[:4], "little")
        (kept / f"{name}-died-{int(time.time())}").write_bytes(slot[4 : 4 + size])


def run_pdus(row: Row, pdus: int, seed: int) -> None:
    """Let a listener of its own have so many PDUs."""
    begun = time.monotonic()
    told: Counter[str] = Counter()
    with (
        tempfile.TemporaryDirectory() as scratch,
        wire.serving(Path(scratch)) as served,
    ):
        row.findings = wire.storm(served, pdus, seed, told)
        row.outcomes = len(served.outcomes)
    row.inputs = told["pdus"]
    row.seconds = round(time.monotonic() - begun, 1)


def show(rows: list[Row], console: Console) -> None:
    """Print the counts of every target, and everything that was found."""
    table = Table("target", box=None)
    for head in ("inputs", "coverage", "outcomes", "findings", "seconds"):
        table.add_column(head, justify="right")
    for row in rows:
        numbers = (row.coverage or "-", row.outcomes, len(row.findings), row.seconds)
        table.add_row(row.target, f"{row.inputs:,}", *map(str, numbers))
    console.print(table)
    for row in rows:
        for one in row.findings:
            console.print(f"{row.target}: {one}", markup=False)


def watch(rows: list[Row], total: int, stop: threading.Event) -> None:
    """Show how far it is."""
    columns = (BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("inputs", total=total)
        while not stop.wait(1):
            bar.update(task, completed=sum(row.inputs for row in rows))
        bar.update(task, completed=sum(row.inputs for row in rows))


@click.command()
@click.option("--inputs", default=10_000_000, show_default=True, help="All together.")
@click.option("--pdus", default=100_000, show_default=True, help="On the real socket.")
@click.option("--seed", default=1, show_default=True)
@click.option("--jobs", default=CPUS, show_default=True, help="Processes at a time.")
@click.option("--target", multiple=True, help="Only these; a name, or `pdu`.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write counts.")
@click.option(
    "--keep", type=click.Path(path_type=Path), default=".fuzz", show_default=True
)
def main(
    inputs: int,
    pdus: int,
    seed: int,
    jobs: int,
    target: tuple[str, ...],
    to: Path | None,
    keep: Path,
) -> None:
    """Fuzz everything that reads bytes of strangers."""
    names = [one for one in targets.all_targets() if not target or one in target]
    plan = shares(inputs, names) if names else {}
    rows = [Row(name) for name in names]
    targets.clean()
    keep.mkdir(exist_ok=True)
    stop = threading.Event()
    watching = threading.Thread(target=watch, args=(rows, sum(plan.values()), stop))
    watching.start()
    sent, done = Row(PDUS), []
    with ThreadPoolExecutor(jobs) as pool:
        running = []
        if pdus and (not target or PDUS in target):
            running.append(pool.submit(run_pdus, sent, pdus, seed))
        running.extend(
            pool.submit(run, row, plan[row.target], seed, keep)
            for row in sorted(rows, key=lambda row: plan[row.target])
        )
        for _ in as_completed(running):
            done = [row for row in (*rows, sent) if row.inputs]
            if to is not None:  # as far as it is: it may be stopped
                to.write_text(json.dumps([asdict(row) for row in done], indent=1))
    stop.set()
    watching.join()
    console = Console()
    show(done, console)
    for one in running:
        one.result()  # a fault of the harness itself is raised here
    total = sum(row.inputs for row in rows)
    found = sum(len(row.findings) for row in done)
    console.print(f"{total:,} inputs, {sent.inputs:,} PDUs, {found} findings")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
