"""The networks of an evaluation, found again by the digest of their weights."""

from collections.abc import Mapping
from pathlib import Path

import torch

from dicom_node.findings import Stage
from training.report import choice
from training.row import DEVELOPMENT
from training.scores import Evaluation
from training.scoring import served_probabilities
from training.snapshot import Snapshot
from worker import models
from worker.cascade import StageModel
from worker.weights import load_stage

Served = Mapping[Stage, StageModel]


def find(
    evaluation: Evaluation, folder: Path
) -> tuple[dict[Stage, StageModel], list[str]]:
    """Load the networks that were evaluated, and say which could not be found.

    A network of other weights is never taken instead: its maps and scores would be
    those of another model than the tables'.

    Raises:
        SettingsError: A manifest or its weights cannot be read.
        ModelIntegrityError: Weights are not those of their manifest.
    """
    installed = models.installed(folder)
    found: dict[Stage, StageModel] = {}
    warnings = []
    for stage in Stage:
        model = choice.reference(evaluation, stage)
        if model is None:
            continue
        digest = model.about.weights_sha256
        same = [one for one in installed if one.weights_sha256 == digest]
        if same:
            path = models.folder(folder, same[0].name, same[0].version)
            found[stage] = load_stage(path, torch.device("cpu"))
            continue
        said = f"SHA-256 {digest[:12]}..." if digest else "no stated SHA-256"
        warnings.append(
            f"The folder of models holds no network with the weights evaluated for "
            f"{stage} ({said}); its card and its maps are missing."
        )
    return found, warnings


def unlabelled(snapshot: Snapshot, served: Served) -> dict[Stage, dict[str, float]]:
    """Score the cases without a label of a stage, as they are served.

    Training cases are left out: they would be scored by a network that knows them.
    """
    scores: dict[Stage, dict[str, float]] = {}
    for stage, model in served.items():
        part = snapshot.take(
            [
                i
                for i, row in enumerate(snapshot.rows)
                if row.role != DEVELOPMENT
                and row.label(stage) < 0
                and (stage is Stage.SLN or row.sln == 1)
            ]
        )
        said = served_probabilities(model, part.crops.crops).tolist()
        scores[stage] = {
            row.case_id: chance for row, chance in zip(part.rows, said, strict=True)
        }
    return scores
