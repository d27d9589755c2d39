"""A source header made fit to inherit from.

Real headers lack mandatory attributes or hold values that the Standard does not
allow. What we write must not repeat such a defect, and must not fail on it either.
"""

import re
from collections.abc import Mapping
from datetime import date
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

LENGTHS: Final[Mapping[str, int]] = {"LO": 64, "SH": 16, "ST": 1024}
"""Characters of one value (PS3.5 table 6.2-1); what is longer is cut."""

FREE_TEXT: Final = frozenset({"LT", "UT"})
"""Comments may say anything of anybody, and no result needs them."""

TEXT: Final = frozenset({"LO", "PN", "SH", "ST", "UC"})
ESCAPES: Final = re.compile(r"\x1b(\$[()]?[A-Z]|[()-][A-Z])")
"""Switches between ISO 2022 character sets: pydicom leaves those of GB 2312 in."""

IDENTIFIERS: Final = frozenset(
    {"AccessionNumber", "IssuerOfPatientID", "PatientID", "StudyID", "CodeValue"}
)
"""Half an identifier is another one: these stay as they are, however long."""

CODE: Final = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
ENTITY: Final = ("UniversalEntityID", "UniversalEntityIDType")
SEQUENCES: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "DeidentificationMethodCodeSequence": (CODE,),
    "IssuerOfAccessionNumberSequence": (("LocalNamespaceEntityID",), ENTITY),
    "IssuerOfPatientIDQualifiersSequence": (ENTITY,),
    "OtherPatientIDsSequence": (("PatientID", "TypeOfPatientID"),),
    "ProcedureCodeSequence": (CODE,),
    "ReferencedStudySequence": (("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"),),
}
"""Sequences worth inheriting, and what each item must hold: one of these groups.

The many others may lack anything inside, and no archive files an object by them.
"""

MAX_CODE: Final = 16


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
            if element.VR in FREE_TEXT:
                continue
            value = _items(element) if element.VR == "SQ" else _value(element)
            no_uid = element.VR == "UI" and not value  # empty, it would be copied on
            if value != [] and not no_uid:
                clean.add(DataElement(tag, element.VR, value))
        except VALUE_ERRORS:
            continue
    return clean


def _items(element: DataElement) -> list[Dataset]:
    """Return the items that are whole; half a code, for one, says nothing."""
    groups = SEQUENCES.get(element.keyword, ())
    items = [_clean(item) for item in element.value] if groups else []
    return [item for item in items if _is_whole(item, groups)]


def _is_whole(item: Dataset, groups: tuple[tuple[str, ...], ...]) -> bool:
    if len(text(item, "CodeValue")) > MAX_CODE:
        return False
    return any(all(text(item, name) for name in group) for group in groups)


def _value(element: DataElement) -> object:
    """Return a value as it may be written, or None where it may not."""
    many = element.VM > 1
    values = list(element.value) if many else [element.value]
    if element.VR in TEXT:
        values = [one and ESCAPES.sub("", str(one)) for one in values]
    limit = None if element.keyword in IDENTIFIERS else LENGTHS.get(element.VR)
    if limit is not None:
        values = [one and str(one)[:limit] for one in values]
    said = [one for one in values if one is not None and one != ""]
    if not all(_is_legal(element.VR, str(one)) for one in said):
        return None
    return values if many else values[0]


def _is_legal(representation: str, value: str) -> bool:
    """Say whether a value is of its representation."""
    if representation == "UI":
        return is_valid_uid(value)
    form = FORMS.get(representation)
    if form is None:
        return True
    return form.fullmatch(value) is not None and (
        representation != "DA" or _is_day(value)
    )


def _is_day(value: str) -> bool:
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:8]))
    except ValueError:
        return False
    return True


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
