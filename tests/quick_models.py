"""Both stages with random weights: real files and real networks, no training."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import save

from dicom_node.findings import Proportion, Stage
from worker import manifest as manifests
from worker.cascade import build_network
from worker.manifest import (
    Architecture,
    Calibration,
    Manifest,
    OperatingThreshold,
    Performance,
    Preprocessing,
    TrainingRecord,
)

THRESHOLD = 0.3


def write_model(models: Path, stage: Stage, seed: int, intercept: float = 0.0) -> Path:
    """Write one model of one stage below `models` and return its folder."""
    torch.manual_seed(seed)
    content = save(build_network(Architecture()).state_dict())
    positives, negatives = (0.2, 0.35, 0.6, 0.9), (0.05, 0.1, 0.25, 0.4, 0.7)
    manifest = Manifest(
        name=f"untrained-{stage.lower()}",
        version=f"1-{seed}",
        stage=stage,
        architecture=Architecture(),
        preprocessing=Preprocessing(mean=0.3, sd=0.2),
        calibration=Calibration(slope=1.0, intercept=intercept),
        operating_threshold=OperatingThreshold(value=THRESHOLD, how="made for tests"),
        performance=Performance(
            dataset="nine made-up scores",
            n=9,
            auc=0.75,
            auc_low=0.4,
            auc_high=0.95,
            sensitivity=Proportion.wilson(3, 4),
            specificity=Proportion.wilson(3, 5),
            positives=positives,
            negatives=negatives,
        ),
        heat_range=(-4.0, 4.0),
        weights_sha256=hashlib.sha256(content).hexdigest(),
        trained_on="nothing: random weights",
        training=TrainingRecord(
            preset="test", seed=seed, threads=1, config={}, libraries={}
        ),
        created_at=datetime(2026, 1, seed, tzinfo=UTC),
    )
    folder = models / manifest.name / manifest.version
    folder.mkdir(parents=True)
    (folder / manifests.WEIGHTS_NAME).write_bytes(content)
    (folder / manifests.CARD_NAME).write_text("# Untrained\n\nRESEARCH USE ONLY\n")
    manifests.write(folder, manifest)
    return folder


def write_models(models: Path, intercept: float = 0.0) -> Path:
    """Write one model of each stage; the intercept shifts both towards high risk."""
    for seed, stage in enumerate(Stage, start=1):
        write_model(models, stage, seed, intercept)
    return models
