"""The folders of the trainer, and what runs in another process there.

training/holdout-NNN/     the frozen held-out cases; the highest number counts
training/runs/ID/         one retraining: snapshot/, models/, train.log
"""

import ctypes
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from dicom_node.errors import SettingsError, TransientError
from training import snapshot
from training.row import HOLDOUT
from training.snapshot import Snapshot

POLL_S: Final = 0.5
PR_SET_PDEATHSIG: Final = 1
LAST_LINES: Final = 3
NUMBERED: Final = re.compile(r"holdout-(\d{3})")

Beat = Callable[[], None]
"""Called often while work goes on; it raises when the work is not ours any more."""

_libc = ctypes.CDLL(None)


class RunFailedError(SettingsError):
    """A step of a retraining failed; its last words are in the message."""


class LostLeaseError(TransientError):
    """Another trainer took over: this one must stop."""


def run_folder(workshop: Path, identifier: str) -> Path:
    """Return the folder of one retraining."""
    return workshop / "runs" / identifier


def discard(workshop: Path, identifier: str) -> None:
    """Remove what an abandoned retraining left."""
    shutil.rmtree(run_folder(workshop, identifier), ignore_errors=True)


def holdout(workshop: Path, found: Snapshot, *, rotate: bool = False) -> Snapshot:
    """Return the frozen held-out cases, freezing those of a snapshot if there are none.

    With `rotate` newer ones take their place: promotions are then counted anew.

    Raises:
        SettingsError: The snapshot has no held-out cases, or a file changed.
    """
    numbers = sorted(
        int(match[1])
        for path in workshop.glob("holdout-*")
        if (match := NUMBERED.fullmatch(path.name))
    )
    if numbers and not rotate:
        return snapshot.load(workshop / f"holdout-{numbers[-1]:03d}")
    part = found.of_role(HOLDOUT)
    if not part.rows:
        raise SettingsError(
            "no patient of this cohort is held out, so no model can be judged on it"
        )
    alone = replace(part, id=snapshot.identify(part.rows))
    number = numbers[-1] + 1 if numbers else 1
    return snapshot.freeze(alone, workshop / f"holdout-{number:03d}")


def run(arguments: Sequence[str], log: Path, limit_s: float, beat: Beat) -> None:
    """Run `python -m training ...` to its end, in a process that dies with this one.

    Raises:
        RunFailedError: It failed or took too long; the end of its log says why.
    """
    deadline = time.monotonic() + limit_s
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "training", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one thread in this process
        )
        try:
            while process.poll() is None:
                beat()
                if time.monotonic() > deadline:
                    raise RunFailedError(
                        f"training took more than {limit_s:.0f} s; raise "
                        "SENTINODE_RETRAIN_TIME_LIMIT or choose a smaller recipe"
                    )
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise RunFailedError(
            f"training ended with code {process.returncode}: {_last_words(log)}"
        )


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return " ".join(said[-LAST_LINES:]) or "it said nothing"
