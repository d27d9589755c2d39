"""One target in one process: `python -m tests.fuzz.engine TARGET RUNS SEED FOLDER`.

Guided by coverage of our own code where atheris is installed, else by new kinds of
outcomes. Prints a line of JSON about every second, and a last one with `done`.
"""

import contextlib
import json
import logging
import mmap
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

with contextlib.suppress(ImportError):
    import atheris

SECONDS = 10.0
"""Of processor time for one input: far more than any takes, also on a busy machine."""

MEGABYTES = 600
"""By which one input may raise the memory that the process ever took."""

ADDRESS_SPACE = 8 * 2**30
LONGEST = 20_000
POOL = 400
SLOT = 2**16
REPORT_S = 1.0


@dataclass(slots=True)
class Tally:
    """What came of the inputs so far."""

    inputs: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    findings: dict[str, bytes] = field(default_factory=dict)

    def said(self, **more: object) -> str:
        """Return a line of JSON."""
        numbers = {"inputs": self.inputs, "outcomes": len(self.outcomes)}
        return json.dumps(numbers | {"findings": sorted(self.findings)} | more)


def guided() -> bool:
    """Say whether atheris is there."""
    return "atheris" in sys.modules


def quiet() -> None:
    """Say nothing of what the libraries warn of: inputs are hostile on purpose."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")


def limit() -> None:
    """End an input that takes all memory with an error, not with this machine."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, hard))


def judge(run: Callable[[bytes], str], data: bytes, tally: Tally) -> bool:
    """Run one input and enter what came of it; say whether that is new."""
    begun, before = time.process_time(), _peak()
    try:
        outcome = run(data)
    except Exception as error:  # noqa: BLE001 - it is what we look for
        outcome = place(error)
        tally.findings.setdefault(outcome, data)
    if time.process_time() - begun > SECONDS:
        tally.findings.setdefault("too slow", data)
    if _peak() - before > MEGABYTES:
        tally.findings.setdefault("too much memory", data)
    tally.inputs += 1
    is_new = outcome not in tally.outcomes
    tally.outcomes[outcome] = tally.outcomes.get(outcome, 0) + 1
    return is_new


def place(error: BaseException) -> str:
    """Name an error by its kind and the last places that it went through."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(
        f"{Path(one.filename).name}:{one.lineno}" for one in frames[::-1]
    )
    return f"{type(error).__name__}({str(error)[:60]!r}) at {where}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def inputs(target: Any, rng: Random, pool: list[bytes]) -> Iterator[bytes]:
    """Yield mutations of the pool without end."""
    while True:
        yield target.mutate(rng.choice(pool), rng)[:LONGEST]


def plainly(target: Any, runs: int, seed: int, tally: Tally) -> Iterator[bytes]:
    """Run so many mutations; an input with an outcome of its own is mutated further.

    Yields each input before it is run.
    """
    pool = list(target.seeds)
    for data in inputs(target, Random(seed), pool):  # noqa: S311 - repeatable
        if tally.inputs >= runs:
            return
        yield data
        if judge(target.run, data, tally) and len(pool) < POOL:
            pool.append(data)


class Reporter:
    """Says how far it is, and keeps the input under way for when the process dies."""

    def __init__(self, folder: Path, tally: Tally) -> None:
        self._tally = tally
        self._next = 0.0
        path = folder / "current"
        path.write_bytes(bytes(SLOT))
        with path.open("r+b") as file:
            self._slot = mmap.mmap(file.fileno(), SLOT)

    def begin(self, data: bytes) -> None:
        """Take note of the next input."""
        kept = data[: SLOT - 4]
        self._slot[: len(kept) + 4] = len(kept).to_bytes(4, "little") + kept
        if self._tally.inputs % 64 == 0 and time.monotonic() > self._next:
            print(self._tally.said(), flush=True)  # noqa: T201 - to who started us
            self._next = time.monotonic() + REPORT_S

    def end(self, folder: Path) -> None:
        """Write what was found."""
        for number, data in enumerate(self._tally.findings.values()):
            (folder / f"finding-{number}").write_bytes(data)
        print(self._tally.said(done=True), flush=True)  # noqa: T201 - as above


def by_coverage(target: Any, runs: int, seed: int, folder: Path, tally: Tally) -> None:
    """Let libFuzzer choose what is mutated; never returns."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(data)
    reporter = Reporter(folder, tally)

    def once(data: bytes) -> None:
        reporter.begin(data)
        judge(target.run, data, tally)
        if tally.inputs >= runs:
            reporter.end(folder)
            clean()
            os._exit(0)

    def change(data: bytes, longest: int, number: int) -> bytes:
        rng = Random(number)  # noqa: S311 - repeatable
        if rng.random() < 0.15:
            return bytes(atheris.Mutate(data, longest))
        return target.mutate(data, rng)[:longest]

    options = [f"-seed={seed}", f"-max_len={LONGEST}", "-timeout=600", "-verbosity=1"]
    options += ["-rss_limit_mb=0", "-handle_segv=0", str(corpus)]
    atheris.Setup(["fuzz", *options], once, custom_mutator=change)
    atheris.Fuzz()


def clean() -> None:
    """Remove the files of the targets."""
    import_module("tests.fuzz.targets").clean()


def main(name: str, runs: int, seed: int, folder: Path) -> None:
    """Run one target."""
    quiet()
    limit()
    if guided():
        with atheris.instrument_imports(include=["dicom_node"]):
            target = import_module("tests.fuzz.targets").all_targets()[name]
    else:
        target = import_module("tests.fuzz.targets").all_targets()[name]
    tally = Tally()
    if guided():
        by_coverage(target, runs, seed, folder, tally)
    reporter = Reporter(folder, tally)
    for data in plainly(target, runs, seed, tally):
        reporter.begin(data)
    reporter.end(folder)
    clean()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
