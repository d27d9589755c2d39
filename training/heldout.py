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
from training.row import HOLDOUT, CohortRow
from training.scoring import served_probabilities
from training.snapshot import Snapshot
from worker.cascade import StageModel
from worker.manifest import Preprocessing
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
    at = [i for i, row in enumerate(part.rows) if row.label(stage) >= 0]
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
        labels=np.array([row.label(stage) for row in rows], dtype=np.int64),
        identities=tuple((row.patient_key, row.pixel_sha256) for row in rows),
        groups={
            "size": tuple(row.size_group or "" for row in rows),
            "centre": tuple(row.centre for row in rows),
        },
    )


def _identify(rows: tuple[CohortRow, ...], stage: Stage) -> str:
    seen = sorted(
        (row.case_id, row.patient_key, row.pixel_sha256, row.label(stage))
        for row in rows
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
    return served_probabilities(model, crops)


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
