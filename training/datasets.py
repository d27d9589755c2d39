"""Labelled crops in memory: (n, 70, 70) in [0, 1] and what is known of each."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from dicom_node.findings import Stage
from training.phantom.anatomy import Level
from training.phantom.crops import crops, sides_mm, subjects
from training.phantom.law import Patients
from worker.manifest import Preprocessing

CROP: Preprocessing = Preprocessing(mean=0.0, sd=1.0)
"""Preprocessing up to the crop; mean and SD are measured on the training crops."""


@dataclass(frozen=True, slots=True)
class StageSet:
    """What one stage learns from: crops (n, 70, 70) and labels (n,) of 0 and 1.

    `sides` (n, 2) are width and height of the rectangles in mm, where they are known.
    `patients` (n,) has one number for each patient; None: each case is of another.
    """

    crops: torch.Tensor
    labels: torch.Tensor
    sides: torch.Tensor | None = None
    patients: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def rarer(self) -> int:
        """Cases of the rarer class."""
        positives = int(self.labels.sum())
        return min(positives, len(self) - positives)

    def take(self, rows: NDArray[np.int64]) -> "StageSet":
        """Return the cases at these rows."""
        chosen = torch.from_numpy(rows)
        sides = None if self.sides is None else self.sides[chosen]
        patients = None if self.patients is None else self.patients[rows]
        return StageSet(self.crops[chosen], self.labels[chosen], sides, patients)

    @property
    def repeated(self) -> NDArray[np.int64] | None:
        """`patients`, None where nobody has two cases and cases may be dealt alone."""
        patients = self.patients
        if patients is None or len(np.unique(patients)) == len(patients):
            return None
        return patients


@dataclass(frozen=True, slots=True)
class LabelledCrops:
    """Crops (n, 70, 70) with both labels (n,): 0, 1, or -1 for unknown.

    `sides` as in `StageSet`.
    """

    crops: torch.Tensor
    sln: torch.Tensor
    nsln: torch.Tensor
    sides: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.sln)

    def for_stage(self, stage: Stage) -> StageSet:
        """Return the cases with a known label; stage II sees SLN-positive ones only."""
        if stage is Stage.SLN:
            labels, known = self.sln, self.sln >= 0
        else:
            labels, known = self.nsln, (self.nsln >= 0) & (self.sln == 1)
        sides = None if self.sides is None else self.sides[known]
        return StageSet(self.crops[known], labels[known].long(), sides)


def from_phantom(
    patients: Patients, seed: int, level: Level, tick: Callable[[], None]
) -> LabelledCrops:
    """Render the crops of phantom patients in memory; `tick` is called after each."""
    pictures = []
    drawn = subjects(patients, seed, level)
    for picture in crops(drawn, CROP):
        pictures.append(picture)
        tick()
    return LabelledCrops(
        torch.stack(pictures),
        torch.from_numpy(patients.sln.astype(np.int64)),
        torch.from_numpy(patients.nsln.astype(np.int64)),
        torch.tensor([sides_mm(subject) for subject in drawn]),
    )


def split(data: StageSet, share: float, seed: int) -> tuple[StageSet, StageSet]:
    """Set a share of the cases aside, with about the same prevalence in both parts.

    No patient lies in both.

    Raises:
        ValueError: A class has too few cases for both parts.
    """
    if data.repeated is not None:
        folds = StratifiedGroupKFold(
            max(round(1 / share), 2), shuffle=True, random_state=seed
        )
        labels = data.labels.numpy()
        kept, aside = next(folds.split(labels, labels, data.repeated))
        return data.take(kept), data.take(aside)
    kept, aside = train_test_split(
        np.arange(len(data), dtype=np.int64),
        test_size=share,
        random_state=seed,
        stratify=data.labels.numpy(),
    )
    return data.take(np.sort(kept)), data.take(np.sort(aside))


def measure(data: StageSet) -> Preprocessing:
    """Return the preprocessing with mean and SD of these crops."""
    return CROP.model_copy(
        update={
            "mean": round(float(data.crops.double().mean()), 6),
            "sd": round(float(data.crops.double().std()), 6),
        }
    )
