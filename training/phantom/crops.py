"""Phantom crops in memory: the pixels of the DICOM path without the files."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from training.phantom.anatomy import Level, Subject, anatomy, reader_box
from training.phantom.law import Patients
from training.phantom.render import Phase, View, marked_part, render_marked
from training.phantom.scanner import SCANNERS
from worker.manifest import Preprocessing
from worker.preprocess import to_crop


def subjects(patients: Patients, seed: int, level: Level) -> list[Subject]:
    """Return patients as they are drawn; every other lesion is in the left breast."""
    law = patients.law
    return [
        Subject(
            seed=(seed, law.centre, law.n, i),
            centre=law.centre,
            level=level,
            side=1 if i % 2 == 0 else -1,
            size=float(patients.size[i]),
            spiculation=float(patients.spiculation[i]),
            halo=float(patients.halo[i]),
            rim=float(patients.rim[i]),
            heterogeneity=float(patients.heterogeneity[i]),
        )
        for i in range(len(patients))
    ]


def crop(subject: Subject, spec: Preprocessing) -> torch.Tensor:
    """Render and prepare the marked slice of one subject, (resize, resize) in [0, 1].

    It is the crop that `worker.preprocess` makes of the subject's DICOM slice.
    """
    scene = marked_part(subject)
    pixels = render_marked(scene, View(Phase(spec.phase)))
    x0, y0, x1, y1 = scene.box
    left, top = scene.window.left, scene.window.top
    shifted = (x0 - left, y0 - top, x1 - left, y1 - top)
    return to_crop(pixels.astype(np.float32), shifted, spec)


def sides_mm(subject: Subject) -> tuple[float, float]:
    """Return width and height of the reader's rectangle in mm."""
    x0, y0, x1, y1 = reader_box(subject, anatomy(subject))
    spacing = SCANNERS[subject.centre].spacing
    return (x1 - x0) * spacing, (y1 - y0) * spacing


def crops(drawn: Sequence[Subject], spec: Preprocessing) -> Iterator[torch.Tensor]:
    """Yield the crops of subjects, about 2 ms each."""
    return (crop(subject, spec) for subject in drawn)
