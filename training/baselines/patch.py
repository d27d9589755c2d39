"""The marked pixels of a case, as radiomics measures them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicom_node.attributes import frame_header, numbers
from dicom_node.errors import SettingsError
from dicom_node.images import read_header, read_pixels
from training.phantom.anatomy import Subject
from training.phantom.render import Phase, View, marked_part, render_marked
from training.phantom.scanner import SCANNERS
from worker.manifest import Preprocessing
from worker.preprocess import Box, pixel_window


@dataclass(frozen=True, slots=True)
class Patch:
    """Pixels (rows, columns) inside the rectangle; spacing (row, column) in mm."""

    pixels: NDArray[np.float32]
    spacing: tuple[float, float]


def read(path: Path, frame: int, box: Box) -> Patch:
    """Read the marked pixels of a slice, after its modality LUT.

    Raises:
        UnreadableObjectError: The slice cannot be decoded.
        StudyHeldError: The rectangle lies outside the slice.
        SettingsError: The slice states no pixel spacing.
    """
    header = read_header(path)
    pixels = read_pixels(path, frame, header)
    spacing = numbers(frame_header(header, frame), "PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        raise SettingsError(f"{path.name} states no pixel spacing; radiomics needs mm")
    top, bottom, left, right = pixel_window(box, pixels.shape)
    part = np.asarray(pixels[top:bottom, left:right], dtype=np.float32)
    return Patch(part, (spacing[0], spacing[1]))


def of_phantom(
    subject: Subject, phase: str = Preprocessing(mean=0, sd=1).phase
) -> Patch:
    """Render the marked pixels of a phantom subject, those of its DICOM slice."""
    scene = marked_part(subject)
    spacing = SCANNERS[subject.centre].spacing
    pixels = render_marked(scene, View(Phase(phase))).astype(np.float32)
    return Patch(pixels, (spacing, spacing))
