"""A source header made fit to inherit from.

Real headers lack mandatory attributes or hold values that the Standard does not
allow. What we write must not repeat such a defect, and must not fail on it either.
"""

import re
from collections.abc import Mapping
from typing import Final

from pydicom import Dataset
from pydicom.dataelem import DataElement

from dicom_node.attributes import (
    VALUE_ERRORS,
    frame_header,
    numbers,
    real,
    text,
)
from dicom_node.silence import silence
from dicom_node.study import is_valid_uid

INHERITED: Final = (
    "AccessionNumber",
    "PatientBirthDate",
    "PatientID",
    "PatientName",
    "PatientSex",
    "ReferringPhysicianName",
    "StudyDate",
    "StudyID",
    "StudyTime",
)
"""Type 2 attributes of patient and study: there, if only empty."""

DEIDENTIFICATION: Final = (
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)
CHARACTER_SET: Final = 0x00080005
FIRST_GROUP_LEFT_OUT: Final = 0x5000
"""Curves, overlays and pixels are no part of what a report inherits."""

FORMS: Final[Mapping[str, re.Pattern[str]]] = {
    "AS": re.compile(r"\d{3}[DWMY]", re.ASCII),
    "DA": re.compile(r"(?!0000)\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", re.ASCII),
    "DS": re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII),
    "IS": re.compile(r"\s*[+-]?\d{1,11}\s*", re.ASCII),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?\s*", re.ASCII),
}
"""What a value of these representations looks like (PS3.5 table 6.2-1)."""


def as_evidence(dataset: Dataset, frame: int = 1) -> Dataset:
    """Return a copy of a header that report objects can inherit from.

    Text is decoded from whatever character set to ISO_IR 192; missing attributes of
    patient and study are added empty; a value that breaks the rules of its attribute
    is emptied; a sex outside M, F, O becomes O. Private elements are left out.

    Args:
        dataset: The header of an image; left unchanged.
        frame: The frame whose functional groups count, from 1.
    """
    with silence():
        evidence = _clean(frame_header(dataset, frame))
        evidence.SpecificCharacterSet = "ISO_IR 192"
        for keyword in INHERITED:
            if evidence.get(keyword) is None:
                setattr(evidence, keyword, "")
        if evidence.PatientSex not in {"M", "F", "O", ""}:
            evidence.PatientSex = "O"
        if evidence.get("PatientIdentityRemoved") == "YES" and not any(
            evidence.get(keyword) for keyword in DEIDENTIFICATION
        ):
            evidence.DeidentificationMethod = "not stated by the source"
    return evidence


def _clean(dataset: Dataset) -> Dataset:
    """Copy what can be read and written again, text as Unicode, items alike."""
    clean = Dataset()
    for tag in sorted(dataset.keys()):
        if tag.group >= FIRST_GROUP_LEFT_OUT or tag.is_private or tag == CHARACTER_SET:
            continue
        try:
            element = dataset[tag]
            value = _value(element)
            if value != []:
                clean.add(DataElement(tag, element.VR, value))
        except VALUE_ERRORS:
            continue
    return clean


def _value(element: DataElement) -> object:
    if element.VR == "SQ":
        items = [_clean(item) for item in element.value]
        return [item for item in items if not _is_half_a_code(item)]
    many = element.VM > 1
    values = list(element.value) if many else [element.value]
    if element.VR == "PN":
        values = [str(one) for one in values]
    form = FORMS.get(element.VR)
    if form and not all(form.fullmatch(str(one)) for one in values if one is not None):
        return None
    return values if many else values[0]


def _is_half_a_code(item: Dataset) -> bool:
    """Say whether an item is a code without a scheme or a meaning: it says nothing."""
    return "CodeValue" in item and not (
        item.get("CodingSchemeDesignator") and item.get("CodeMeaning")
    )


def has_geometry(evidence: Dataset) -> bool:
    """Say whether an image library entry can describe the image (TID 1604)."""
    return (
        pixel_spacing(evidence) is not None
        and numbers(evidence, "ImagePositionPatient", 3) is not None
        and numbers(evidence, "ImageOrientationPatient", 6) is not None
        and real(evidence, "SliceThickness") is not None
    )


def has_plane(evidence: Dataset) -> bool:
    """Say whether the image has a place in the patient: all of it, or none."""
    return (
        pixel_spacing(evidence) is not None
        and numbers(evidence, "ImagePositionPatient", 3) is not None
        and numbers(evidence, "ImageOrientationPatient", 6) is not None
        and is_valid_uid(text(evidence, "FrameOfReferenceUID"))
    )


def pixel_spacing(evidence: Dataset) -> tuple[float, float] | None:
    """Return the distances in mm between rows and between columns, if usable."""
    spacing = numbers(evidence, "PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        return None
    return spacing[0], spacing[1]
