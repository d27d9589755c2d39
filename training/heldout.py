"""The held-out cases that models are judged on, and what a model says of them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.datasets import CROP
from training.row import HOLDOUT, SIZE_CUT_CM, CohortRow
from training.snapshot import Snapshot
from worker.cascade import StageModel, score
from worker.manifest import Preprocessing
from worker.preprocess import centre, standardise
from worker.weights import load_stage

CPU: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out cases with a label of one stage: crops (n, 70, 70), labels (n,).

    `id` changes with every case and label. `identities` are patient key and digest of
    the pixels; `groups` as in `training.gate.Evidence`.
    """

    id: str
    stage: Stage
    description: str
    crops: torch.Tensor
    labels: NDArray[np.int64]
    identities: tuple[tuple[str, str], ...]
    groups: Mapping[str, tuple[str, ...]]


def held_out(snapshot: Snapshot, stage: Stage) -> HeldOut:
    """Take the held-out cases of a snapshot.

    Raises:
        SettingsError: There is none with a label of the stage.
    """
    part = snapshot.of_role(HOLDOUT)
    labels = labels_of(part.rows, stage)
    at = [i for i, label in enumerate(labels) if label >= 0]
    if not at:
        raise SettingsError(
            f"{snapshot.folder} has no case of role holdout with a label of stage "
            f"{stage}: nothing can be compared on it"
        )
    known = part.take(at)
    rows = known.rows
    return HeldOut(
        id=_identify(rows, stage),
        stage=stage,
        description=f"holdout of {snapshot.description}",
        crops=known.crops.crops,
        labels=np.array([labels[i] for i in at], dtype=np.int64),
        identities=tuple((row.patient_key, row.pixel_sha256) for row in rows),
        groups={
            "size": tuple(_size(row) for row in rows),
            "centre": tuple(row.centre for row in rows),
        },
    )


def labels_of(rows: tuple[CohortRow, ...], stage: Stage) -> list[int]:
    """Return 0, 1 or -1 for each row; stage II is asked of SLN-positive cases only."""
    if stage is Stage.SLN:
        return [row.sln for row in rows]
    return [row.nsln if row.sln == 1 else -1 for row in rows]


def _size(row: CohortRow) -> str:
    if row.size_cm is None:
        return ""
    return "> 2 cm" if row.size_cm > SIZE_CUT_CM else "<= 2 cm"


def _identify(rows: tuple[CohortRow, ...], stage: Stage) -> str:
    seen = sorted(
        (row.case_id, row.patient_key, row.pixel_sha256, label)
        for row, label in zip(rows, labels_of(rows, stage), strict=True)
    )
    return hashlib.sha256(json.dumps([stage, seen]).encode()).hexdigest()


def probabilities(folder: Path, crops: torch.Tensor) -> NDArray[np.float64]:
    """Score crops (n, 70, 70) with the model in a folder, exactly as it serves.

    Raises:
        SettingsError: Files are missing, or the model wants other crops.
        ModelIntegrityError: The weights are not those of the manifest.
        PermanentError: A score is not finite.
    """
    model = load_stage(folder, CPU)
    demand_same_crop(model)
    spec = model.manifest.preprocessing
    inputs = standardise(centre(crops, spec), spec)
    return np.array([score(model, x).probability for x in inputs])


def demand_same_crop(model: StageModel) -> None:
    """Refuse a model whose crops are not those that snapshots hold.

    Raises:
        SettingsError: Window, size or interpolation differ.
    """
    spec = model.manifest.preprocessing
    if _crop_of(spec) != _crop_of(CROP):
        raise SettingsError(
            f"{model.manifest.reference} takes another crop than snapshots hold: it "
            "cannot be compared on them"
        )


def _crop_of(spec: Preprocessing) -> tuple[object, ...]:
    return (
        spec.pixels,
        spec.crop,
        spec.window_percentiles,
        spec.resize,
        spec.interpolation,
    )
