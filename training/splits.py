"""The folds of a cross-validation: drawn once by patient, written down, then kept.

Stage II inherits the folds of stage I, so that its networks can start from those of
the same fold and never from one that has seen the cases that they are tested on.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.model_selection import StratifiedGroupKFold

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.cohort import CohortRow
from training.durable import write_whole
from training.leakage import (
    SAME_PATIENT,
    check_apart,
    check_development,
    check_pixels,
)
from training.row import SIZE_CUT_CM

SPLITS_NAME: Final = "splits.json"
METHOD: Final = "StratifiedGroupKFold by patient, strata SLN x size <= 2 cm"


@dataclass(frozen=True, slots=True)
class Order:
    """What folds are asked for: of which snapshot, how many, by which seed."""

    snapshot_id: str
    folds: int
    seed: int


class Splits(BaseModel):
    """The fold (1 to `folds`) of every development case with a known SLN label."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot_id: str
    folds: int = Field(ge=2)
    seed: int
    method: str = METHOD
    fold_of: dict[str, int]

    def of(self, case_ids: Sequence[str]) -> NDArray[np.int64]:
        """Return the folds (n,) of these cases.

        Raises:
            SettingsError: A case has none.
        """
        absent = [case_id for case_id in case_ids if case_id not in self.fold_of]
        if absent:
            raise SettingsError(f"{SPLITS_NAME} has no fold for {absent[0]}")
        return np.array([self.fold_of[case_id] for case_id in case_ids], dtype=np.int64)


def obtain(path: Path, rows: Sequence[CohortRow], order: Order) -> Splits:
    """Read the folds that are written down; draw and write them the first time.

    Raises:
        SettingsError: The file is damaged or of another snapshot, or the cases
            cannot be divided.
    """
    if not path.exists():
        splits = draw(rows, order)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, splits.model_dump_json(indent=2).encode("utf-8") + b"\n")
        return splits
    splits = read(path)
    if Order(splits.snapshot_id, splits.folds, splits.seed) != order:
        raise SettingsError(
            f"{path} holds the folds of another snapshot, number or seed: "
            "use another --out"
        )
    check(splits, rows)
    return splits


def read(path: Path) -> Splits:
    """Read folds that `obtain` wrote.

    Raises:
        SettingsError: The file is missing or damaged.
    """
    try:
        return Splits.model_validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise SettingsError(
            f"{path} does not hold folds: {error.errors()[0]['msg']}; restore it"
        ) from error


def draw(rows: Sequence[CohortRow], order: Order) -> Splits:
    """Divide development cases with a known SLN label into folds, by patient.

    Raises:
        SettingsError: A row is not for development, or there are too few cases.
    """
    check_development(rows)
    known = [row for row in rows if row.sln >= 0]
    strata = np.array([_stratum(row) for row in known])
    groups = np.array([row.patient_key for row in known])
    kfold = StratifiedGroupKFold(order.folds, shuffle=True, random_state=order.seed)
    fold_of: dict[str, int] = {}
    with warnings.catch_warnings():
        # A stratum may be smaller than the folds; `check_classes` judges the result.
        warnings.simplefilter("ignore", UserWarning)
        try:
            parts = list(kfold.split(strata, strata, groups))
        except ValueError as error:
            raise SettingsError(
                f"{len(known)} development cases with a known SLN label cannot be "
                f"divided into {order.folds} folds: fill the column sln, use fewer "
                "--folds, or a larger cohort"
            ) from error
    for fold, (_, aside) in enumerate(parts, start=1):
        fold_of |= {known[row].case_id: fold for row in aside.tolist()}
    splits = Splits(
        snapshot_id=order.snapshot_id,
        folds=order.folds,
        seed=order.seed,
        fold_of={row.case_id: fold_of[row.case_id] for row in known},
    )
    check(splits, known)
    return splits


def _stratum(row: CohortRow) -> int:
    """Return the stratum of a case; an unknown size counts as a small one."""
    return 2 * row.sln + int((row.size_cm or 0.0) > SIZE_CUT_CM)


def check(splits: Splits, rows: Sequence[CohortRow]) -> None:
    """Compare folds with the development cases that they divide.

    Raises:
        SettingsError: A case has no fold, or a patient or its pixels lie in two.
    """
    check_development(rows)
    known = [row for row in rows if row.sln >= 0]
    case_ids = [row.case_id for row in known]
    folds = splits.of(case_ids)
    parts = {
        case_id: f"fold {fold}" for case_id, fold in zip(case_ids, folds, strict=True)
    }
    patients = {row.case_id: row.patient_key for row in known}
    check_apart(patients, parts, SAME_PATIENT)
    check_pixels(known, parts)


def check_classes(
    stage: Stage, labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> None:
    """Refuse a fold without both classes, before hours are spent.

    Raises:
        SettingsError: There is one; the message counts what is there.
    """
    for fold in range(1, int(folds.max(initial=0)) + 1):
        here = labels[folds == fold]
        positives = int(here.sum())
        counts = {"positive": positives, "negative": len(here) - positives}
        for what, count in counts.items():
            if not count:
                raise SettingsError(
                    f"{stage}: fold {fold} has no {what} case among {len(here)} "
                    f"(all folds: {int(labels.sum())} positive of {len(labels)}): "
                    "use fewer --folds, another --seed, or a larger cohort"
                )
