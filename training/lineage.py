"""What a model learned from, as numbers: `lineage.json` beside its manifest.

It travels with the model, so that a site which gets one from elsewhere can refuse a
comparison on patients that it learned from, and can tell when its own cases drift
away. No patient can be found from it: patients are digests of keyed hashes, and each
feature's values are sorted by themselves.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.durable import write_whole

LINEAGE_NAME: Final = "lineage.json"
MAX_VALUES: Final = 2000
DIGITS: Final = 6


class Reference(BaseModel):
    """Values of one feature over the training cases, ascending; `n` of them at first.

    Of more than 2,000 cases that many quantiles are kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(gt=0)
    values: tuple[float, ...] = Field(min_length=1, repr=False)


class Lineage(BaseModel):
    """Snapshot, counts, patients and features behind one stage's model.

    `cases` and `positives` are those with a label of the stage; `patients` and `pixels`
    (digests of the marked pixels) all that may have been learned from, for stage II
    starts from the trunk of stage I.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = 1
    stage: Stage
    snapshot_id: str = Field(pattern=r"^[0-9a-f]{64}$")
    cases: int = Field(ge=0)
    positives: int = Field(ge=0)
    patients: tuple[str, ...] = Field(repr=False)
    pixels: tuple[str, ...] = Field(default=(), repr=False)
    features: dict[str, Reference] = Field(default_factory=dict, repr=False)
    scanners: dict[str, int] = Field(default_factory=dict)


def patient_digest(patient_key: str) -> str:
    """Digest the keyed hash of a patient once more, for files that leave the site."""
    return hashlib.sha256(f"sentinode lineage {patient_key}".encode()).hexdigest()


def leaked(lineage: Lineage, held_out: Iterable[tuple[str, str]]) -> int:
    """Count the held-out cases, (patient key, digest of pixels), that were learned."""
    patients, pixels = set(lineage.patients), set(lineage.pixels) - {""}
    return sum(
        patient_digest(key) in patients or digest in pixels for key, digest in held_out
    )


def reference(values: NDArray[np.float64]) -> Reference:
    """Keep the values (n,) of a feature, as quantiles when they are many."""
    finite = np.sort(values[np.isfinite(values)])
    kept = finite
    if len(finite) > MAX_VALUES:
        kept = np.quantile(finite, np.linspace(0, 1, MAX_VALUES))
    rounded = tuple(float(f"{value:.{DIGITS}g}") for value in kept)
    return Reference(n=len(finite), values=rounded)


def write(folder: Path, lineage: Lineage) -> None:
    """Write the lineage of a model that is not in service yet."""
    text = lineage.model_dump_json(indent=1) + "\n"
    write_whole(folder / LINEAGE_NAME, text.encode("utf-8"))


def read(folder: Path) -> Lineage | None:
    """Read the lineage of the model in a folder; None when it has none.

    Raises:
        SettingsError: The file is there and is none.
    """
    path = folder / LINEAGE_NAME
    try:
        return Lineage.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "file"
        raise SettingsError(f"{path} is no lineage: {where}: {fault['msg']}") from error
