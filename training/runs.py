"""The folder of a run: everything that lets a killed run go on, and be looked up.

OUT/runs/SNAPSHOT-FOLDSxSEED/
splits.json               the folds, shared by both stages
STAGE-PRESET-KEY/
run.json              what is trained, from what, and what came of it
fold-1/ ... all/      checkpoint while it trains, then result.safetensors
curves.png            loss and AUC, from the first epoch on
oof.csv               every development case, scored by the fold without it
"""

import csv
import fcntl
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from dicom_node.errors import SettingsError, StateError
from dicom_node.findings import Stage
from training.durable import write_whole
from training.splits import SPLITS_NAME, Order

RUNS: Final = "runs"
RECORD_NAME: Final = "run.json"
OOF_NAME: Final = "oof.csv"
LOCK_NAME: Final = ".lock"
OOF_COLUMNS: Final = (
    *("case_id", "fold", "label", "logit", "probability", "resubstitution"),
    "pixel_sha256",
)


class Key(BaseModel):
    """What decides the weights of a run; another key is another run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    snapshot_id: str
    folds: int
    seed: int
    recipe: dict[str, Any]
    initial: str
    parent_weights_sha256: str | None
    device: str
    world: int
    libraries: dict[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


class Record(BaseModel):
    """A run as `run.json` keeps it; `published` and what follows once it is done.

    `measured` holds the AUCs that were measured on the way, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Key
    trained_on: str
    cases: int
    positives: int
    published: str | None = None
    weights_sha256: str | None = None
    measured: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """The development cases, each scored by the network of the folds without it.

    `folds`, `labels`, `logits`, `probabilities` are (n,); `resubstitution` is what
    the served network, which learned from them, says of the same cases.
    """

    case_ids: tuple[str, ...]
    folds: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    resubstitution: NDArray[np.float64]
    pixels: tuple[str, ...]


def family(out: Path, order: Order) -> Path:
    """Return the folder of all runs on the same folds."""
    return out / RUNS / f"{order.snapshot_id[:12]}-{order.folds}x{order.seed}"


def folder(out: Path, key: Key) -> Path:
    """Return the folder of a run."""
    order = Order(key.snapshot_id, key.folds, key.seed)
    name = f"{key.stage.lower()}-{key.recipe['preset']}-{key.digest[:8]}"
    return family(out, order) / name


def splits_path(run: Path) -> Path:
    """Return the file of the folds of a run."""
    return run.parent / SPLITS_NAME


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's folder; the lock ends with the process, however it ends.

    Raises:
        StateError: Another process trains this run.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK_NAME).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(
                f"another process trains {run}: wait for it, or end it"
            ) from error
        yield


def write(run: Path, record: Record) -> None:
    """Write `run.json`."""
    text = record.model_dump_json(indent=2) + "\n"
    write_whole(run / RECORD_NAME, text.encode("utf-8"))


def read(run: Path) -> Record:
    """Read `run.json`.

    Raises:
        SettingsError: It is missing or damaged.
    """
    path = run / RECORD_NAME
    try:
        return Record.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}; is {run} the folder of a run?"
        ) from error
    except ValidationError as error:
        raise SettingsError(
            f"{path} is damaged or of another version: {error.errors()[0]['msg']}"
        ) from error


def producing(models: Path, weights_sha256: str) -> Path | None:
    """Return the run in a folder of models that published these weights."""
    for path in sorted(models.glob(f"{RUNS}/*/*/{RECORD_NAME}")):
        if read(path.parent).weights_sha256 == weights_sha256:
            return path.parent
    return None


def write_oof(run: Path, oof: OutOfFold) -> None:
    """Write `oof.csv`; numbers keep all their digits."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(OOF_COLUMNS)
    table.writerows(
        zip(
            oof.case_ids,
            oof.folds.tolist(),
            oof.labels.tolist(),
            oof.logits.tolist(),
            oof.probabilities.tolist(),
            oof.resubstitution.tolist(),
            oof.pixels,
            strict=True,
        )
    )
    write_whole(run / OOF_NAME, text.getvalue().encode("utf-8"))


def read_oof(run: Path) -> OutOfFold:
    """Read `oof.csv`.

    Raises:
        SettingsError: It is missing or damaged: the run is not done.
    """
    path = run / OOF_NAME
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return OutOfFold(
            case_ids=tuple(row["case_id"] for row in rows),
            folds=_whole(rows, "fold"),
            labels=_whole(rows, "label"),
            logits=_real(rows, "logit"),
            probabilities=_real(rows, "probability"),
            resubstitution=_real(rows, "resubstitution"),
            pixels=tuple(row["pixel_sha256"] for row in rows),
        )
    except (OSError, KeyError, ValueError) as error:
        raise SettingsError(
            f"{path} cannot be read: the run is not finished, or damaged; give the "
            "same `train` command again"
        ) from error


def _whole(rows: Sequence[Mapping[str, str]], name: str) -> NDArray[np.int64]:
    return np.array([int(row[name]) for row in rows], dtype=np.int64)


def _real(rows: Sequence[Mapping[str, str]], name: str) -> NDArray[np.float64]:
    return np.array([float(row[name]) for row in rows], dtype=np.float64)
