"""Reading a cohort from disk: `cohort.csv` and the marked slices that it names.

A phantom cohort, a hospital's and a frozen snapshot have the same table; an empty
cell means unknown, extra columns are ignored. Everything that could spoil a training
run is refused here, with the case and the column, before a network exists.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.attributes import frame_header, numbers
from dicom_node.errors import (
    SettingsError,
    StudyHeldError,
    UnreadableObjectError,
)
from dicom_node.images import read_header, read_pixels
from training import spreadsheet
from training.datasets import CROP, LabelledCrops
from training.layout import COHORT_NAME, DESCRIPTION_NAME
from training.row import REQUIRED, CohortRow, row_of
from worker import crops
from worker.preprocess import to_crop

__all__ = ["CohortRow", "Look", "demand_sound", "describe", "look", "read"]

MAX_FAULTS: Final = 10
"""Faults that one message names; more are counted."""


class Faults:
    """Collects what is wrong with a table, so that a person corrects it in one go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: list[str] = []

    def add(self, where: str, fault: str) -> None:
        """Note a fault of a case."""
        self._found.append(f"{where}: {fault}")

    def demand_none(self) -> None:
        """Raise what was found.

        Raises:
            SettingsError: There is a fault; the message has one line for each.
        """
        if not self._found:
            return
        shown = self._found[:MAX_FAULTS]
        if len(self._found) > len(shown):
            shown.append(f"and {len(self._found) - len(shown)} more")
        lines = "\n  ".join(shown)
        raise SettingsError(
            f"{self._path}:\n  {lines}" if shown[1:] else f"{self._path}: {lines}"
        )


def read(folder: Path) -> list[CohortRow]:
    """Read `cohort.csv` of a folder and check it as a whole.

    Raises:
        SettingsError: The table is missing or faulty; see `demand_sound`.
    """
    table = spreadsheet.read(folder / COHORT_NAME, REQUIRED)
    rows = []
    faults = Faults(table.path)
    for line in table.lines:
        try:
            rows.append(row_of(line.cells))
        except ValueError as error:
            case = line.cells["case_id"]
            named = (
                f"case {case} (line {line.number})" if case else f"line {line.number}"
            )
            faults.add(named, str(error))
    faults.demand_none()
    demand_sound(rows, table.path, folder)
    return rows


def demand_sound(rows: Sequence[CohortRow], path: Path, folder: Path) -> None:
    """Refuse rows that contradict one another, or name images that are not there.

    A patient with two roles, or of two centres, would be trained on and tested with.

    Raises:
        SettingsError: With every contradiction, by case.
    """
    faults = Faults(path)
    seen: dict[str, CohortRow] = {}
    patients: dict[str, CohortRow] = {}
    for row in rows:
        where = f"case {row.case_id}"
        if row.case_id in seen:
            faults.add(where, "case_id stands in two rows: give each its own")
        seen[row.case_id] = row
        first = patients.setdefault(row.patient_key, row)
        if first.role != row.role:
            faults.add(
                where,
                f"role: the patient has two roles, {first.role} in {first.case_id} and "
                f"{row.role} here; a patient has one, in all rows",
            )
        if first.centre != row.centre:
            faults.add(
                where,
                f"centre: the patient is of two centres, {first.centre or 'none'} in "
                f"{first.case_id} and {row.centre or 'none'} here; if these are two "
                "patients, make their patient_key differ",
            )
        if not (folder / row.image).is_file():
            faults.add(where, f"image: there is no file {row.image} in {folder}")
    faults.demand_none()


@dataclass(frozen=True, slots=True)
class Look:
    """What a row's slice shows: the crop (70, 70) in [0, 1], its sides in mm.

    `sha256` digests the marked pixels before any scaling: equal pixels, equal digest.
    """

    crop: torch.Tensor
    sides: tuple[float, float]
    sha256: str


def look(folder: Path, row: CohortRow) -> Look:
    """Cut the marked slice of a row, as it is served.

    Raises:
        SettingsError: The slice cannot be decoded or states no pixel spacing, or the
            rectangle lies outside it or marks no contrast; the message names the case.
    """
    try:
        header = read_header(folder / row.image)
        pixels = read_pixels(folder / row.image, row.frame, header)
        _demand_inside(row, pixels)
        spacing = _spacing(frame_header(header, row.frame))
        part = crops.cut(pixels, row.box)
        crop = to_crop(pixels, row.box, CROP)
    except (UnreadableObjectError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(
            f"case {row.case_id}: image: {why}; export {row.image} again, "
            "uncompressed, or remove the row"
        ) from None
    except StudyHeldError as error:
        raise SettingsError(
            f"case {row.case_id}: x0..y1: {error.detail} Correct the rectangle, or "
            "remove the row"
        ) from None
    x0, y0, x1, y1 = row.box
    if spacing is None:
        raise SettingsError(
            f"case {row.case_id}: image: {row.image} states no pixel spacing: the "
            "size of its lesion is unknown; take another slice or remove the row"
        )
    return Look(
        crop, ((x1 - x0) * spacing[1], (y1 - y0) * spacing[0]), digest(part.pixels)
    )


def _demand_inside(row: CohortRow, pixels: NDArray[np.float32]) -> None:
    rows, columns = pixels.shape
    if row.x0 < 0 or row.y0 < 0 or row.x1 > columns or row.y1 > rows:
        raise SettingsError(
            f"case {row.case_id}: x0..y1: the rectangle leaves its slice of {columns} "
            f"columns and {rows} rows; it is in pixels, with (0, 0) at the outer corner"
        )


def _spacing(header: Dataset) -> tuple[float, ...] | None:
    spacing = numbers(header, "PixelSpacing", 2)
    return None if spacing is None or min(spacing) <= 0 else spacing


def digest(pixels: NDArray[np.float32]) -> str:
    """Digest pixels (h, w) and their shape."""
    content = np.ascontiguousarray(pixels.astype("<f4")).tobytes()
    return hashlib.sha256(f"{pixels.shape}".encode() + content).hexdigest()


def demand_different(rows: Iterable[CohortRow], path: Path) -> None:
    """Refuse two patients, or two roles, with the same pixels: one tests on the other.

    Raises:
        SettingsError: With every pair, by case.
    """
    faults = Faults(path)
    first: dict[str, CohortRow] = {}
    for row in rows:
        other = first.setdefault(row.pixel_sha256, row)
        if (other.role, other.patient_key) != (row.role, row.patient_key):
            faults.add(
                f"case {row.case_id}",
                f"image: the marked pixels are those of case {other.case_id} (role "
                f"{other.role}), of another patient: remove one of the two",
            )
    faults.demand_none()


def labelled(rows: Sequence[CohortRow], looks: Sequence[Look]) -> LabelledCrops:
    """Put looks and labels of the same rows together."""
    return LabelledCrops(
        torch.stack([one.crop for one in looks]),
        torch.tensor([row.sln for row in rows]),
        torch.tensor([row.nsln for row in rows]),
        torch.tensor([one.sides for one in looks]),
    )


def describe(folder: Path) -> str:
    """Say in words what a cohort is, for manifests and cards."""
    path = folder / DESCRIPTION_NAME
    if not path.exists():
        return f"cohort {folder.resolve().name}"
    written = json.loads(path.read_text(encoding="utf-8"))
    return f"synthetic phantoms, level {written['level']}, seed {written['seed']}"
