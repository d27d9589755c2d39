"""Reading a cohort from disk: `cohort.csv` and the marked slices that it names.

A phantom cohort and a hospital's have the same table; extra columns are ignored.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydicom import Dataset

from dicom_node.attributes import frame_header, numbers
from dicom_node.errors import SettingsError
from dicom_node.images import read_header, read_pixels
from training.datasets import CROP, LabelledCrops
from training.layout import COHORT_NAME, DESCRIPTION_NAME
from worker.preprocess import to_crop


def _label(text: object) -> object:
    return {"0": 0, "1": 1, "unknown": -1}.get(str(text), text)


Label = Annotated[Literal[0, 1, -1], BeforeValidator(_label)]


class CohortRow(BaseModel):
    """One patient: the marked slice, the rectangle, the role and both labels.

    `image` is relative to the cohort's folder; the rectangle is in continuous
    pixels, (0, 0) at the image's outer corner. `frame` counts from 1.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    case_id: str
    patient_key: str
    role: Literal["development", "holdout", "external"]
    image: Path
    frame: int
    x0: float
    y0: float
    x1: float
    y1: float
    sln: Label
    nsln: Label


def read(folder: Path) -> list[CohortRow]:
    """Read `cohort.csv`.

    Raises:
        SettingsError: The table is missing or a row is faulty, or a patient has
            two roles: then held-out results would be worthless.
    """
    path = folder / COHORT_NAME
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [CohortRow.model_validate(row) for row in csv.DictReader(stream)]
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise SettingsError(f"{path}: {where}: {fault['msg']}") from error
    roles: dict[str, str] = {}
    for row in rows:
        if roles.setdefault(row.patient_key, row.role) != row.role:
            raise SettingsError(f"{path}: the patient of {row.case_id} has two roles")
    return rows


def load(
    folder: Path, rows: list[CohortRow], tick: Callable[[], None]
) -> LabelledCrops:
    """Cut the marked slices of these rows as they are served; `tick` after each.

    Raises:
        UnreadableObjectError: A slice cannot be decoded.
        StudyHeldError: A rectangle lies outside its slice or marks no contrast.
        SettingsError: A slice states no pixel spacing.
    """
    pictures, sides = [], []
    for row in rows:
        header = read_header(folder / row.image)
        pixels = read_pixels(folder / row.image, row.frame, header)
        pictures.append(to_crop(pixels, (row.x0, row.y0, row.x1, row.y1), CROP))
        sides.append(_sides_mm(row, frame_header(header, row.frame)))
        tick()
    return LabelledCrops(
        torch.stack(pictures),
        torch.tensor([row.sln for row in rows]),
        torch.tensor([row.nsln for row in rows]),
        torch.tensor(sides),
    )


def _sides_mm(row: CohortRow, header: Dataset) -> tuple[float, float]:
    """Return width and height of a rectangle in mm.

    Raises:
        SettingsError: The slice does not say how large its pixels are.
    """
    spacing = numbers(header, "PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        raise SettingsError(f"the slice of {row.case_id} states no pixel spacing")
    return (row.x1 - row.x0) * spacing[1], (row.y1 - row.y0) * spacing[0]


def describe(folder: Path) -> str:
    """Say in words what a cohort is, for manifests and cards."""
    path = folder / DESCRIPTION_NAME
    if not path.exists():
        return f"cohort {folder.resolve().name}"
    written = json.loads(path.read_text(encoding="utf-8"))
    return f"synthetic phantoms, level {written['level']}, seed {written['seed']}"
