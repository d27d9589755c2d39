"""Rounds, interleaved; medians, spread, ratios; what else the machine did meanwhile."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

Rounds = dict[str, list[float]]
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of ours, what it is read against, and the target that it has.

    Attributes:
        target: Its number among the targets, `P1` and so on; without one it explains.
        ours: One figure for each round, in `unit`.
        against: What `theirs` are figures of; without it the target is absolute.
        wanted: The bound of ours / theirs, or of ours; None where there is none.
        at_least: That the bound is a lower one.
        share: Which share of the figures lies below what is compared: 0.5 the median.
    """

    target: str
    what: str
    unit: str
    ours: list[float]
    against: str | None = None
    theirs: list[float] = field(default_factory=list)
    wanted: float | None = None
    at_least: bool = False
    share: float = 0.5

    @property
    def value(self) -> float:
        """The figure that the target is about."""
        own = quantile(self.ours, self.share)
        return own / quantile(self.theirs, self.share) if self.theirs else own

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.wanted is None:
            return None
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted

    @property
    def bound(self) -> str:
        """The target as text."""
        if self.wanted is None:
            return ""
        unit = "x" if self.theirs else f" {self.unit}"
        return f"{'>=' if self.at_least else '<='} {self.wanted:g}{unit}"


def quantile(values: list[float], share: float) -> float:
    """Return the value below which a share of the figures lies."""
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure(parts: dict[str, Callable[[], float]], rounds: int, what: str) -> Rounds:
    """Run every part once a round, in turn; return each part's figures."""
    figures: Rounds = {name: [] for name in parts}
    for _ in track(range(rounds), what, console=Console(stderr=True)):
        for name, part in parts.items():
            figures[name].append(part())
    return figures


def show(title: str, unit: str, figures: Rounds) -> None:
    """Print medians, spread and the ratio to the first row."""
    table = Table(title=f"{title} [{unit}]", title_justify="left")
    for column in ("", "median", "min - max", "first row / this"):
        table.add_column(column)
    first = statistics.median(next(iter(figures.values())))
    for name, values in figures.items():
        median = statistics.median(values)
        table.add_row(
            name,
            f"{median:.1f}",
            f"{min(values):.1f} - {max(values):.1f}",
            f"{first / median:.2f}",
        )
    Console(width=100).print(table)


def show_lines(lines: list[Line]) -> None:
    """Print every figure with its target."""
    table = Table(title="Ours and theirs, interleaved", title_justify="left")
    for column in ("", "figure", "ours", "theirs", "value", "target", "reached"):
        table.add_column(column)
    for line in lines:
        unit = "x" if line.theirs else f" {line.unit}"
        says = {None: "", True: "yes", False: "no"}[line.reached]
        theirs = f"{line.against}: {_spread(line.theirs)}" if line.theirs else ""
        own = f"{_spread(line.ours)} {line.unit}"
        value = f"{line.value:.3g}{unit}"
        table.add_row(line.target, line.what, own, theirs, value, line.bound, says)
    Console(width=150).print(table)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}-{max(values):.3g})"


def cpu_ms(pid: int) -> float:
    """Return the CPU milliseconds that a process has used in all its threads."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) * 1000 / TICKS


def peak_mb(pid: int) -> float:
    """Return the most memory that a process has had resident, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} is gone")


def _busy_s() -> float:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle) / TICKS


def _own_s() -> float:
    used = (resource.getrusage(resource.RUSAGE_SELF), _children())
    return sum(one.ru_utime + one.ru_stime for one in used)


def _children() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


@contextmanager
def others_meanwhile() -> Iterator[list[float]]:
    """Yield a list that gets the CPUs that other processes kept busy, on average.

    Children count as ours once they have ended, so all must have by then.
    """
    found: list[float] = []
    busy, own, begun = _busy_s(), _own_s(), time.monotonic()
    yield found
    others = (_busy_s() - busy) - (_own_s() - own)
    found.append(max(0.0, others / (time.monotonic() - begun)))
