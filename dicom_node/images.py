"""The objects of a study: MR frames with their geometry, documents, and pixels."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from pydicom import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    ColorSoftcopyPresentationStateStorage,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedMRImageStorage,
    EnhancedSRStorage,
    ExtensibleSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
    RTStructureSetStorage,
    SegmentationStorage,
)

from dicom_node.attributes import (
    frame_header,
    frame_headers,
    number,
    numbers,
    own_headers,
    parse_all,
    read_header,
    readable,
    real,
    text,
    words,
)
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Laterality
from dicom_node.own import is_own
from dicom_node.pixels import MAX_FRAMES, read_pixels
from dicom_node.study import SopInstanceUid, StoredInstance

__all__ = ["MrImage", "StudyObjects", "read_header", "read_pixels", "read_study"]

Vector: TypeAlias = tuple[float, float, float]

MR_CLASSES: Final = frozenset(
    {
        MRImageStorage,
        EnhancedMRImageStorage,
        LegacyConvertedEnhancedMRImageStorage,
    }
)
LABEL_MAP_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.7"
TEXT_CLASSES: Final = frozenset(
    {
        BasicTextSRStorage,
        EnhancedSRStorage,
        ComprehensiveSRStorage,
        Comprehensive3DSRStorage,
        ExtensibleSRStorage,
        KeyObjectSelectionDocumentStorage,
        GrayscaleSoftcopyPresentationStateStorage,
        ColorSoftcopyPresentationStateStorage,
    }
)
DOCUMENT_CLASSES: Final = TEXT_CLASSES | {
    SegmentationStorage,
    LABEL_MAP_SEGMENTATION,
    RTStructureSetStorage,
}
"""What may carry a mark; segmentations are read without their pixels."""
MAX_SKEW: Final = 1e-2
"""Departure of direction cosines from unit length and a right angle."""

DAY_S: Final = 86_400
DATES: Final = ("AcquisitionDate", "SeriesDate", "ContentDate", "StudyDate")
"""What dates an AcquisitionTime, the most direct first."""

CLOCK_PATTERN: Final = re.compile(r"(\d\d)(\d\d)(\d\d(?:\.\d{1,6})?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class MrImage:
    """The header of one MR frame; None or "" where the header says nothing usable.

    `frame` counts from 1. `spacing` is (between rows, between columns) in mm.
    `position` is the centre of the first pixel, `orientation` the directions of a
    row and of a column, in the patient's coordinates (LPS, mm). `acquired` is an
    instant in seconds, `clock` counts seconds since midnight and needs no date;
    `trigger_time` is in milliseconds. `temporal_positions` is how many phases the
    scan has by its header, `derivation` how the image was made of others.
    """

    sop_instance_uid: SopInstanceUid
    sop_class_uid: str
    series_uid: str
    study_uid: str
    path: Path
    frame: int
    rows: int
    columns: int
    spacing: tuple[float, float] | None = None
    position: Vector | None = None
    orientation: tuple[float, ...] | None = None
    thickness: float | None = None
    frame_of_reference_uid: str = ""
    series_number: int | None = None
    acquisition_number: int | None = None
    temporal_position: int | None = None
    temporal_positions: int | None = None
    acquired: float | None = None
    clock: float | None = None
    trigger_time: float | None = None
    repetition_time: float | None = None
    echo_time: float | None = None
    flip_angle: float | None = None
    scanning_sequence: tuple[str, ...] = ()
    sequence_name: str = ""
    image_type: tuple[str, ...] = ()
    derivation: str = ""
    description: str = ""
    study_description: str = ""
    body_part: str = ""
    laterality: Laterality | None = None


@dataclass(frozen=True, slots=True)
class StudyObjects:
    """What a study holds for us; our own reports and captures are left out.

    `documents` are all objects that may carry a mark, without pixels. `unreadable`
    has a sentence for each object that did not parse, without a patient's name or ID.
    """

    images: tuple[MrImage, ...] = ()
    documents: tuple[Dataset, ...] = ()
    unreadable: tuple[str, ...] = field(default=())


def read_study(stored: Sequence[StoredInstance]) -> StudyObjects:
    """Read the headers of a study, from `stored` with absolute paths.

    An object that does not parse is reported, never raised: one damaged file must
    not keep a whole study from being analysed.
    """
    images: list[MrImage] = []
    documents: list[Dataset] = []
    unreadable: list[str] = []
    for instance in stored:
        try:
            if instance.sop_class_uid in MR_CLASSES:
                images.extend(_read_images(instance))
            elif instance.sop_class_uid in DOCUMENT_CLASSES:
                documents.extend(_read_document(instance))
        except UnreadableObjectError as error:
            unreadable.append(f"object {instance.sop_instance_uid}: {error}")
    return StudyObjects(tuple(images), tuple(documents), tuple(unreadable))


def _read_document(instance: StoredInstance) -> Iterator[Dataset]:
    dataset = read_header(instance.path)
    with readable("the document"):
        if instance.sop_class_uid in TEXT_CLASSES:
            parse_all(dataset)  # of the others it would convert a million coordinates
        own = is_own(dataset)
    if not own:
        yield dataset


def _read_images(instance: StoredInstance) -> Iterator[MrImage]:
    dataset = read_header(instance.path)
    with readable("the header"):
        if is_own(dataset):
            return
        frames = number(dataset, "NumberOfFrames") or 1
        if not 1 <= frames <= MAX_FRAMES:
            raise UnreadableObjectError(f"the image claims {frames} frames")
        stated = min(frames, own_headers(dataset) + 1)
        headers = enumerate(islice(frame_headers(dataset), stated), start=1)
        found = [_image(flat, instance.path, frame) for frame, flat in headers]
    yield from found
    for frame in range(stated + 1, frames + 1):  # these say nothing of their own
        yield replace(found[-1], frame=frame)


def read_frame(path: Path, frame: int) -> MrImage:
    """Read the header of one frame, counted from 1, of an MR image.

    Raises:
        UnreadableObjectError: It does not parse, or has no such frame.
    """
    dataset = read_header(path)
    with readable("the header"):
        return _image(frame_header(dataset, frame), path, frame)


def _image(flat: Dataset, path: Path, frame: int) -> MrImage:
    rows, columns = number(flat, "Rows"), number(flat, "Columns")
    if not rows or not columns or rows < 0 or columns < 0:
        raise UnreadableObjectError("the image states no size")
    spacing = numbers(flat, "PixelSpacing", 2)
    position = numbers(flat, "ImagePositionPatient", 3)
    return MrImage(
        sop_instance_uid=SopInstanceUid(text(flat, "SOPInstanceUID")),
        sop_class_uid=text(flat, "SOPClassUID"),
        series_uid=text(flat, "SeriesInstanceUID"),
        study_uid=text(flat, "StudyInstanceUID"),
        path=path,
        frame=frame,
        rows=rows,
        columns=columns,
        spacing=_spacing(spacing),
        position=(position[0], position[1], position[2]) if position else None,
        orientation=_orientation(flat),
        thickness=real(flat, "SliceThickness"),
        frame_of_reference_uid=text(flat, "FrameOfReferenceUID"),
        series_number=number(flat, "SeriesNumber"),
        acquisition_number=number(flat, "FrameAcquisitionNumber")
        or number(flat, "AcquisitionNumber"),
        temporal_position=number(flat, "TemporalPositionIndex")
        or number(flat, "TemporalPositionIdentifier"),
        temporal_positions=number(flat, "NumberOfTemporalPositions"),
        acquired=_acquired(flat),
        clock=_clock(flat),
        trigger_time=real(flat, "TriggerTime"),
        repetition_time=real(flat, "RepetitionTime"),
        echo_time=real(flat, "EffectiveEchoTime") or real(flat, "EchoTime"),
        flip_angle=real(flat, "FlipAngle"),
        scanning_sequence=words(flat, "ScanningSequence") or _echoes(flat),
        sequence_name=text(flat, "SequenceName") or text(flat, "PulseSequenceName"),
        image_type=words(flat, "FrameType") or words(flat, "ImageType"),
        derivation=text(flat, "DerivationDescription"),
        description=text(flat, "SeriesDescription"),
        study_description=text(flat, "StudyDescription"),
        body_part=text(flat, "BodyPartExamined").upper(),
        laterality=_laterality(flat),
    )


def _echoes(flat: Dataset) -> tuple[str, ...]:
    """Say in the words of ScanningSequence what an enhanced object says in its own."""
    kinds = {"SPIN": ("SE",), "GRADIENT": ("GR",), "BOTH": ("GR", "SE")}
    planar = text(flat, "EchoPlanarPulseSequence") == "YES"
    echoes = kinds.get(text(flat, "EchoPulseSequence"), ())
    return ("EP", *echoes) if planar else echoes


def _spacing(values: tuple[float, ...] | None) -> tuple[float, float] | None:
    if values is None or min(values) <= 0:
        return None
    return values[0], values[1]


def _orientation(flat: Dataset) -> tuple[float, ...] | None:
    """Return two unit vectors at a right angle, or None."""
    values = numbers(flat, "ImageOrientationPatient", 6)
    if values is None:
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    if max(np.abs(lengths - 1).max(), abs(row @ column)) > MAX_SKEW:
        return None
    return values


def _clock(flat: Dataset) -> float | None:
    """Return the seconds since midnight at which a frame was acquired."""
    match = CLOCK_PATTERN.match(_date_and_time(flat)[1])
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def _acquired(flat: Dataset) -> float | None:
    """Return when a frame was acquired, in seconds since the first of January 1."""
    clock = _clock(flat)
    try:
        day = datetime.strptime(_date_and_time(flat)[0], "%Y%m%d")  # noqa: DTZ007 - a date
    except ValueError:
        return None
    return None if clock is None else (day.toordinal() - 1) * DAY_S + clock


def _date_and_time(flat: Dataset) -> tuple[str, str]:
    both = text(flat, "FrameAcquisitionDateTime") or text(flat, "AcquisitionDateTime")
    if both:
        return both[:8], both[8:]
    dates = (text(flat, keyword) for keyword in DATES)
    return next((date for date in dates if date), ""), text(flat, "AcquisitionTime")


def _laterality(flat: Dataset) -> Laterality | None:
    for keyword in ("FrameLaterality", "ImageLaterality", "Laterality"):
        side = text(flat, keyword).upper()
        if side in {"L", "R"}:
            return Laterality(side)
    return None
