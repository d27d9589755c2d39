"""`make bench`: ours and theirs, interleaved; medians, spread and ratios.

Absolute figures of a shared machine drift by factors, so read the ratios of one run.
Timings are never asserted.
"""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console

from tests.benchmarks import (
    inference,
    ledger,
    plot,
    processes,
    receiving,
    sending,
    studies,
    training,
)
from tests.benchmarks.measuring import Line, others_meanwhile, show_lines

Part = Callable[[Path, int, int], list[Line]]

PARTS: dict[str, Part] = {
    "receive": receiving.lines,
    "inference": lambda _, rounds, __: inference.lines(rounds),
    "study": lambda folder, rounds, _: studies.cost(folder, rounds),
    "latency": lambda folder, rounds, _: studies.latency(folder, 4 * rounds),
    "send": sending.lines,
    "processes": lambda folder, rounds, _: processes.lines(folder, rounds),
    "training": lambda _, rounds, __: training.lines(rounds),
    "ledger": lambda _, rounds, __: ledger.lines(rounds),
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(tuple(PARTS)))
@click.option("--rounds", default=5, show_default=True)
@click.option("--instances", default=400, show_default=True, help="In one round.")
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write figures.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw them.")
def main(
    only: tuple[str, ...],
    rounds: int,
    instances: int,
    to: Path | None,
    picture: Path | None,
) -> None:
    """Measure every target, ours and theirs in turn."""
    lines: list[Line] = []
    busy: dict[str, float] = {}
    for name in only or PARTS:
        folder = Path(tempfile.mkdtemp(prefix="sentinode-bench-"))
        try:
            with others_meanwhile() as others:
                found = PARTS[name](folder, rounds, instances)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        lines += found
        busy[name] = others[0]
        if to is not None:  # as they come: a part that fails takes no other with it
            _write(to, lines, busy)
        if picture is not None:
            plot.draw(lines, picture)
    show_lines(lines)
    said = ", ".join(f"{name} {value:.2f}" for name, value in busy.items())
    Console().print(
        f"CPUs (of {os.cpu_count()}) that others kept busy meanwhile: {said}"
    )


def _write(to: Path, lines: list[Line], busy: dict[str, float]) -> None:
    machine = {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "others": busy,
    }
    figures = [
        asdict(line)
        | {"value": line.value, "bound": line.bound, "reached": line.reached}
        for line in lines
    ]
    to.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2))


if __name__ == "__main__":
    main()
