"""`sentinode send` and dcmsend, to the same DCMTK receiver."""

import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

from tests.benchmarks.measuring import Line, measure
from tests.benchmarks.receiving import instances, theirs
from tests.peers import dcmsend


def lines(folder: Path, rounds: int, number: int) -> list[Line]:
    """Measure P8: the whole command with a study of three times so many instances.

    Its start is included, as with dcmsend.
    """
    number *= 3
    paths = instances(folder / "sent", number)
    fresh = count()

    def timed(send: Callable[[str], object]) -> Callable[[], float]:
        def part() -> float:
            place = folder / f"scp-{next(fresh)}"
            with theirs(place, "storescp", "-pdu", "131072", "+B") as target:
                started = time.perf_counter()
                send(target.address)
                return number / (time.perf_counter() - started)

        return part

    command = [sys.executable, "-m", "worker.cli", "send", *map(str, paths)]
    found = measure(
        {
            "ours": timed(
                lambda to: subprocess.run(
                    [*command, "--to", to], check=True, capture_output=True
                )
            ),
            "dcmsend": timed(lambda to: dcmsend(to, *paths)),
        },
        rounds,
        "Sending",
    )
    return [
        Line(
            "P8",
            f"sentinode send, {number} instances of 0.5 MB",
            "instances/s",
            found["ours"],
            "dcmsend",
            found["dcmsend"],
            0.4,
            at_least=True,
        )
    ]
