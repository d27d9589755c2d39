"""A marked slice as a new object that holds what is on a list, and nothing else.

Nothing is removed from an object: a new one is written, attribute by attribute, each
value converted by what its attribute may hold. Private elements, free text, overlays,
other frames and unused bits have no way in.

Source: DICOM PS3.15 Annex E, Basic Application Level Confidentiality Profile, with the
options that `Identity.options` names. Times of day are dropped, days are shifted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final

from pydicom import Dataset, FileMetaDataset
from pydicom.datadict import keyword_for_tag
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from dicom_node.attributes import frame_header, number, numbers, text, words
from dicom_node.errors import UnreadableObjectError
from dicom_node.images import MR_CLASSES, read_header
from dicom_node.part10 import IMPLEMENTATION_CLASS_UID
from dicom_node.pixels import read_samples

NUMBERS: Final[Mapping[str, int]] = {
    "PixelSpacing": 2,
    "ImageOrientationPatient": 6,
    "ImagePositionPatient": 3,
    "SliceThickness": 1,
    "SpacingBetweenSlices": 1,
    "MagneticFieldStrength": 1,
    "RepetitionTime": 1,
    "EchoTime": 1,
    "FlipAngle": 1,
    "RescaleSlope": 1,
    "RescaleIntercept": 1,
    "WindowCenter": 1,
    "WindowWidth": 1,
    "EchoTrainLength": 1,
    "InstanceNumber": 1,
    "AcquisitionNumber": 1,
    "TemporalPositionIdentifier": 1,
    "NumberOfTemporalPositions": 1,
}
"""Attributes that hold so many numbers each; a value that is none stays away."""

WORDS: Final[Mapping[str, frozenset[str]]] = {
    "ScanningSequence": frozenset({"SE", "IR", "GR", "EP", "RM"}),
    "SequenceVariant": frozenset(
        {"SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"}
    ),
    "ScanOptions": frozenset(
        {"PER", "RG", "CG", "PPG", "FC", "PFF", "PFP", "SP", "FS"}
    ),
    "MRAcquisitionType": frozenset({"2D", "3D"}),
    "PatientPosition": frozenset(
        {"HFP", "HFS", "HFDR", "HFDL", "FFP", "FFS", "FFDR", "FFDL"}
    ),
    "Laterality": frozenset({"L", "R"}),
    "ImageLaterality": frozenset({"L", "R", "U", "B"}),
    "BurnedInAnnotation": frozenset({"YES", "NO"}),
    "PhotometricInterpretation": frozenset({"MONOCHROME1", "MONOCHROME2"}),
}
"""Attributes that hold words of the Standard; others stay away."""

EQUIPMENT: Final = ("Manufacturer", "ManufacturerModelName")
EQUIPMENT_PATTERN: Final = re.compile(r"[A-Za-z0-9 .,_/()+-]{1,64}", re.ASCII)
TYPE_2: Final = (
    *("PatientBirthDate", "PatientSex", "StudyTime", "StudyID", "AccessionNumber"),
    *("ReferringPhysicianName", "PositionReferenceIndicator", "Laterality"),
    *("Manufacturer", "ScanOptions", "MRAcquisitionType", "EchoTime"),
    *("EchoTrainLength", "RepetitionTime", "PatientPosition", "InstanceNumber"),
    *("StudyDate", "SliceThickness"),
)
"""What an MR image has even when it is empty."""

IMAGE_TYPES: Final = frozenset({"ORIGINAL", "DERIVED", "PRIMARY", "SECONDARY"})
PIXELS: Final = (
    *("Rows", "Columns", "BitsStored", "PixelRepresentation", "PixelData"),
    *("BitsAllocated", "HighBit", "SamplesPerPixel"),
)
REPLACED: Final = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("FrameOfReferenceUID", "PatientID", "PatientName", "StudyDate", "ImageType"),
    *("BodyPartExamined", "Modality", "SeriesNumber"),
)
KEPT: Final = frozenset((*NUMBERS, *WORDS, *EQUIPMENT, *PIXELS, *REPLACED))
"""The list: keywords of what may stand in a new object with a value."""

BASIC_PROFILE: Final = ("113100", "Basic Application Confidentiality Profile")
MODIFIED_DATES: Final = (
    "113107",
    "Retain Longitudinal Temporal Information Modified Dates Option",
)
KEPT_DEVICE: Final = ("113109", "Retain Device Identity Option")
KEPT_UIDS: Final = ("113110", "Retain UIDs Option")
MIN_IDENTIFIER: Final = 5
"""Shorter names and numbers occur in pixels and measures by chance."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a new object is of: `uid` maps each UID, `day` is the shifted study day.

    `options` are codes and meanings of what was kept (PS3.15 E.3), for the header.
    """

    patient_id: str
    uid: Callable[[str], str]
    day: date | None
    options: tuple[tuple[str, str], ...]


def marked_slice(path: Path, frame: int, identity: Identity) -> Dataset:
    """Return one frame of an MR image as a new single-frame object.

    `read_pixels` reads the same values from it, bit by bit.

    Raises:
        UnreadableObjectError: It is no MR image, cannot be decoded, or has a modality
            LUT, which an MR image cannot carry.
    """
    header = read_header(path)
    if text(header, "SOPClassUID") not in MR_CLASSES:
        raise UnreadableObjectError("the object is not an MR image")
    flat = frame_header(header, frame)
    if flat.get("ModalityLUTSequence"):
        raise UnreadableObjectError("the image has a table as modality LUT")
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    _name(image, flat, identity)
    for keyword in TYPE_2:
        if keyword not in image:
            setattr(image, keyword, None)
    for keyword, value in _values(flat):
        setattr(image, keyword, value)
    if not image.get("ScanningSequence"):
        image.ScanningSequence = "RM"
    if not image.get("SequenceVariant"):
        image.SequenceVariant = "NONE"
    _add_pixels(image, flat, path, frame, header)
    return image


def _name(image: Dataset, flat: Dataset, identity: Identity) -> None:
    image.SOPClassUID = MRImageStorage
    for keyword in (
        *("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
        "FrameOfReferenceUID",
    ):
        old = text(flat, keyword) or f"{text(flat, 'SOPInstanceUID')} {keyword}"
        setattr(image, keyword, identity.uid(old))
    image.PatientID = identity.patient_id
    image.PatientName = identity.patient_id
    image.StudyDate = f"{identity.day:%Y%m%d}" if identity.day else None
    image.Modality = "MR"
    image.BodyPartExamined = "BREAST"
    image.SeriesNumber = number(flat, "SeriesNumber")
    types = words(flat, "FrameType") or words(flat, "ImageType")
    usual = types[:1] and set(types[:2]) <= IMAGE_TYPES
    image.ImageType = [*((*types[:2], "PRIMARY")[:2] if usual else UNTOLD), "OTHER"]
    image.PatientIdentityRemoved = "YES"
    image.LongitudinalTemporalInformationModified = (
        "MODIFIED" if identity.day else "REMOVED"
    )
    image.DeidentificationMethodCodeSequence = [
        _code(*option) for option in (BASIC_PROFILE, *identity.options)
    ]


UNTOLD: Final = ("DERIVED", "PRIMARY")


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator = value, "DCM"
    item.CodeMeaning = meaning
    return item


def _values(flat: Dataset) -> Iterator[tuple[str, object]]:
    for keyword, count in NUMBERS.items():
        if numbers(flat, keyword, count) is not None:
            value = list(words(flat, keyword))
            yield keyword, value if count > 1 else value[0]
    for keyword, known in WORDS.items():
        said = [word for word in words(flat, keyword) if word in known]
        if said:
            yield keyword, said if len(said) > 1 else said[0]
    for keyword in EQUIPMENT:
        name = text(flat, keyword)
        if EQUIPMENT_PATTERN.fullmatch(name):
            yield keyword, name


def _add_pixels(
    image: Dataset, flat: Dataset, path: Path, frame: int, header: Dataset
) -> None:
    samples = read_samples(path, frame, header)
    signed = number(flat, "PixelRepresentation") or 0
    bits = number(flat, "BitsStored") or number(flat, "BitsAllocated") or 0
    image.Rows, image.Columns = samples.shape
    image.SamplesPerPixel = 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, bits, bits - 1
    image.PixelRepresentation = signed
    image.PixelData = samples.astype("<i2" if signed else "<u2").tobytes()


def refusal(header: Dataset) -> str | None:
    """Say why an image may show a person's name in its pixels; None when it may go.

    Raises nothing: a header that says nothing is taken for a scanner's image.
    """
    types = words(header, "FrameType") or words(header, "ImageType")
    if text(header, "BurnedInAnnotation").upper() == "YES":
        return "burned_in_annotation"
    if "SECONDARY" in (word.upper() for word in types[1:2]):
        return "secondary_image"
    return None


def removed(header: Dataset) -> Counter[str]:
    """Count the elements of a header that have no way into a new object, by keyword."""
    found: Counter[str] = Counter()
    for tag in header.keys():  # noqa: SIM118 - iteration would parse each value
        name = "private" if tag.is_private else keyword_for_tag(tag) or "unknown"
        if name not in KEPT:
            found[name] += 1
    return found


IDENTIFYING: Final = (
    *("PatientID", "PatientName", "PatientBirthDate", "OtherPatientIDs"),
    *("AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
    *("FrameOfReferenceUID", "StudyDate", "InstitutionName", "StationName"),
    *("ReferringPhysicianName", "OperatorsName", "PerformingPhysicianName"),
    *("DeviceSerialNumber", "PatientAddress", "PatientTelephoneNumbers"),
)


def identifiers(header: Dataset) -> frozenset[str]:
    """Return what must not be found in anything made of an object."""
    said = (part for keyword in IDENTIFYING for part in words(header, keyword))
    parts = (part.strip() for value in said for part in re.split(r"[\^=]", value))
    return frozenset(part for part in parts if len(part) >= MIN_IDENTIFIER)
