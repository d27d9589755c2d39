"""Models of a known quality within seconds: a random trunk with a fitted head."""

import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dicom_node.findings import Stage
from training.config import STOCK
from training.datasets import LabelledCrops, measure
from training.row import CohortRow
from training.scoring import pooled_features, score_logits
from training.snapshot import Snapshot, identify
from training.statistics.auc import auc_interval
from training.statistics.calibration import fit_platt, threshold_at_sensitivity
from worker import manifest as manifests
from worker.cascade import build_network
from worker.manifest import (
    Calibration,
    Manifest,
    Performance,
    TrainingRecord,
    operating_point,
)

BORN = datetime(2026, 1, 1, tzinfo=UTC)


def squares(n, seed):
    """Crops whose middle is brighter in positive cases, all noisy, with both labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=generator) < 0.35).long()
    crops = torch.rand(n, 70, 70, generator=generator) * 0.6
    strength = 0.10 + 0.08 * torch.randn(n, generator=generator)
    crops[:, 20:50, 20:50] += (labels * 0.14 + strength)[:, None, None]
    sides = 10 + 10 * torch.rand(n, 2, generator=generator)
    nsln = torch.arange(n) % 2 * labels
    return LabelledCrops(crops.clamp(0, 1), labels, nsln, sides)


def made_snapshot(development=120, heldout=60, seed=5) -> Snapshot:
    """A snapshot in memory: patients of two roles, crops, no files."""
    n = development + heldout
    crops = squares(n, seed)
    rows = tuple(
        CohortRow(
            case_id=f"case-{i}",
            patient_key=f"patient-{i}",
            centre="1",
            role="development" if i < development else "holdout",
            sln=int(crops.sln[i]),
            nsln=int(crops.nsln[i]),
            size_cm=1.0 + i % 3,
            image=Path(f"{i}.dcm"),
            frame=1,
            x0=0,
            y0=0,
            x1=9,
            y1=9,
            pixel_sha256=hashlib.sha256(str(i).encode()).hexdigest(),
        )
        for i in range(n)
    )
    return Snapshot(
        id=identify(rows),
        rows=rows,
        crops=crops,
        description="noisy squares",
        exclusions=(),
        folder=Path("nowhere"),
        synthetic=True,
    )


@dataclass
class Maker:
    """Writes models that learned from the development cases of a snapshot."""

    snapshot: Snapshot
    made: list[Path] = field(default_factory=list)

    def write(self, models: Path, seed=1, *, shuffled=False, stage=Stage.SLN) -> Path:
        """Write MODELS/made-STAGE/VERSION; a shuffled one learned from false labels."""
        data = self.snapshot.of_role("development").crops
        data = LabelledCrops(data.crops, data.sln, data.nsln).for_stage(stage)
        spec = measure(data)
        network = _network(data, spec, seed, shuffled=shuffled)
        fresh = self.snapshot.of_role("holdout").crops.for_stage(stage)
        labels = fresh.labels.numpy()
        logits = score_logits(network, fresh.crops, spec)
        calibration = fit_platt(labels, logits)
        said = np.array([calibration.probability(x) for x in logits.tolist()])
        threshold = threshold_at_sensitivity(labels, said, 0.9)
        content = save({k: v.contiguous() for k, v in network.state_dict().items()})
        manifest = Manifest(
            name=f"made-{stage.lower()}",
            version=f"{seed}{'-shuffled' if shuffled else ''}",
            stage=stage,
            architecture=STOCK,
            preprocessing=spec,
            calibration=Calibration(**calibration.model_dump()),
            operating_threshold=threshold,
            performance=_performance(labels, said, threshold.value),
            heat_range=(-4.0, 4.0),
            weights_sha256=hashlib.sha256(content).hexdigest(),
            trained_on="noisy squares",
            training=TrainingRecord(
                preset="test", seed=seed, threads=1, config={}, libraries={}
            ),
            created_at=BORN + timedelta(days=seed),
        )
        folder = models / manifest.name / manifest.version
        folder.mkdir(parents=True)
        (folder / manifests.WEIGHTS_NAME).write_bytes(content)
        (folder / manifests.CARD_NAME).write_text("# Made\n\nRESEARCH USE ONLY\n")
        manifests.write(folder, manifest)
        self.made.append(folder)
        return folder


def _network(data, spec, seed, *, shuffled):
    torch.manual_seed(seed)
    network = build_network(STOCK).eval()
    labels = data.labels.numpy()
    if shuffled:
        labels = np.random.default_rng(seed).permutation(labels)
    features = pooled_features(network, data.crops, spec)
    fitted = make_pipeline(StandardScaler(), LogisticRegression(C=1e-3)).fit(
        features, labels
    )
    scaler, head = fitted[0], fitted[1]
    weight = head.coef_[0] / scaler.scale_
    with torch.no_grad():
        network.fc.weight.zero_()
        network.fc.bias.zero_()
        network.fc.weight[1] = torch.from_numpy(weight).float()
        network.fc.bias[1] = float(head.intercept_[0] - weight @ scaler.mean_)
    return network


def _performance(labels, said, threshold):
    positives = tuple(np.sort(said[labels == 1]).tolist())
    negatives = tuple(np.sort(said[labels == 0]).tolist())
    area = auc_interval(labels, said)
    point = operating_point(positives, negatives, threshold)
    return Performance(
        dataset="fresh squares",
        n=len(labels),
        auc=area.value,
        auc_low=area.low,
        auc_high=area.high,
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        positives=positives,
        negatives=negatives,
    )
