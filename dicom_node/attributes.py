"""Attributes of a header: read whole or not at all, one frame at a time, no crash.

A header from the network may lack anything and hold anything. The accessors return
None for a value that is absent or cannot be what its attribute claims.
"""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

from pydicom import Dataset, dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_node.errors import UnreadableObjectError
from dicom_node.memory import bounded
from dicom_node.silence import silence

PARSE_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom and the decoders raise on hostile or damaged bytes."""

MAX_PARSED_BYTES: Final = 2 * 2**30
"""What parsing an object may allocate: eight bytes of an empty item become a thousand,
and a conversion that fails repeatedly may keep all that it tried."""

MAX_DEPTH: Final = 100
"""Sequences within sequences; a report of many levels has about twenty."""

VALUE_ERRORS: Final = (
    ArithmeticError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    struct.error,
)
"""What pydicom raises for one value that breaks the rules of its attribute."""

PIXELS_BEGIN: Final = "pixels_begin"
"""Attribute of a header that was read: where in its file the pixel data begin."""

Elements: TypeAlias = dict[BaseTag, Any]
"""Elements by tag, most of them not parsed yet."""

OFFSET_PATTERN: Final = re.compile(r"[+-](0\d|1[0-4])[0-5]\d", re.ASCII)

FRAME_GROUPS: Final = (
    "FrameAnatomySequence",
    "FrameContentSequence",
    "FrameVOILUTSequence",
    "MREchoSequence",
    "MRImageFrameTypeSequence",
    "MRTimingAndRelatedParametersSequence",
    "PixelMeasuresSequence",
    "PixelValueTransformationSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
)
"""Functional groups whose attributes describe one frame (PS3.3 C.7.6.16)."""

CONVERTED_GROUPS: Final = (
    "UnassignedSharedConvertedAttributesSequence",
    "UnassignedPerFrameConvertedAttributesSequence",
)
"""Where a legacy-converted object keeps what its single frames said.

Only what nothing else says counts: some of it, like the series number, is outdated.
"""


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Turn every way in which bytes fail to be an object into one error.

    Args:
        what: Names the object in the message; without a patient's name or ID.

    Raises:
        UnreadableObjectError: With the kind of fault, but not its text: parsers
            quote the value that they stumble over, and it may be a patient's.
    """
    try:
        with silence(), bounded(MAX_PARSED_BYTES):
            yield
    except (*PARSE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system; pydicom raises its own for what ends early
        fault = type(error).__name__
        message = f"{what} cannot be read ({fault})"
        raise UnreadableObjectError(message) from None  # its text may quote a patient


def read_header(path: Path) -> Dataset:
    """Read a Part 10 file up to its pixel data.

    Returns:
        The data set with its file meta information; values are parsed on access.

    Raises:
        UnreadableObjectError: Not a DICOM file, damaged, nested too deeply, or
            deflated (a few bytes may inflate to gigabytes even without pixels).
        OSError: The file itself cannot be opened or read.
    """
    with readable("the file"):
        meta = read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            raise UnreadableObjectError("the file is deflated, which is not accepted")
        with path.open("rb") as file:
            dataset = dcmread(file, stop_before_pixels=True)
            setattr(dataset, PIXELS_BEGIN, file.tell())
        named = text(dataset, "SOPInstanceUID") and text(dataset, "SOPClassUID")
    if not named:
        raise UnreadableObjectError("the file names no SOP class or SOP instance")
    return dataset


def parse_all(dataset: Dataset) -> None:
    """Parse every value at every depth now; a data set that cannot be is no document.

    `Dataset.decode` does so too, but its errors repeat themselves at each level: two
    kilobytes of nested sequences around one damaged value fill gigabytes.

    Raises:
        UnreadableObjectError: It nests deeper than any document does.
    """
    todo = [(dataset, 0)]
    while todo:
        item, depth = todo.pop()
        if depth > MAX_DEPTH:
            raise UnreadableObjectError(f"it nests more than {MAX_DEPTH} levels deep")
        for tag in list(item.keys()):
            element = item[tag]
            if element.VR == "SQ":
                todo.extend((one, depth + 1) for one in element.value or ())


def pixels_begin(header: Dataset) -> int:
    """Return where the pixel data element begins in the file of a header.

    Args:
        header: What `read_header` returned, or a frame's header of it.
    """
    return int(getattr(header, PIXELS_BEGIN))


def frame_headers(dataset: Dataset) -> Iterator[Dataset]:
    """Yield the header of each frame as if it were a single-frame object.

    Shared and per-frame functional groups of an enhanced object are copied to the
    top level, the frame's own last. A single-frame object is yielded as it is. The
    time grows with the number of frames, whatever else the header holds.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    common = _common(dataset)
    for at in range(_count(dataset)):
        own = per_frame[at : at + 1]
        yield _flat(dataset, common, own[0] if own else None)


def own_headers(dataset: Dataset) -> int:
    """Return how many frames have functional groups of their own, the first ones."""
    return len(dataset.get("PerFrameFunctionalGroupsSequence") or ())


def frame_header(dataset: Dataset, frame: int) -> Dataset:
    """Return the header of one frame; see `frame_headers`.

    Args:
        dataset: A header, left unchanged.
        frame: Counts from 1.

    Raises:
        UnreadableObjectError: The object has no such frame.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if not 1 <= frame <= max(_count(dataset), len(per_frame)):
        raise UnreadableObjectError(f"the object has no frame {frame}")
    own = per_frame[frame - 1 : frame]
    return _flat(dataset, _common(dataset), own[0] if own else None)


def _count(dataset: Dataset) -> int:
    return number(dataset, "NumberOfFrames") or 1


def _common(dataset: Dataset) -> Elements:
    """Return what all frames share; nothing for a single-frame object."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or ()
    if not shared and not dataset.get("PerFrameFunctionalGroupsSequence"):
        return {}
    elements: Elements = {}
    for tag in dataset.keys():  # noqa: SIM118 - iteration would parse each value
        if "FunctionalGroupsSequence" not in keyword_for_tag(tag):
            elements[tag] = dataset.get_item(tag)
    for group in shared[:1]:
        converted = _of_groups(group, CONVERTED_GROUPS)
        elements = converted | elements | _of_groups(group)
    return elements


def _flat(dataset: Dataset, common: Elements, own: Dataset | None) -> Dataset:
    if not common:
        return dataset
    flat = Dataset(common)
    if own is not None:
        flat = Dataset(_of_groups(own, CONVERTED_GROUPS) | common | _of_groups(own))
    file_meta = getattr(dataset, "file_meta", None)
    flat.file_meta = FileMetaDataset() if file_meta is None else file_meta
    return flat


def _of_groups(group: Dataset, keywords: Sequence[str] = FRAME_GROUPS) -> Elements:
    """Return the elements of the functional groups that describe one frame."""
    return {
        tag: item.get_item(tag)
        for keyword in keywords
        for item in (group.get(keyword) or ())[:1]
        for tag in item.keys()  # noqa: SIM118 - iteration would parse each value
    }


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def text(dataset: Dataset, keyword: str) -> str:
    """Return a value as text without blanks around it; "" when it is absent.

    Args:
        dataset: Any.
        keyword: One of the data dictionary; not of a repeating group (50xx, 60xx).
    """
    tag = _tag(keyword)
    try:  # most are absent, for which `Dataset.get` raises and catches within
        value = dataset[tag].value if tag in dataset else None
    except (*VALUE_ERRORS, AttributeError):
        return ""
    if value is None or isinstance(value, bytes):
        return ""
    many = isinstance(value, Sequence) and not isinstance(value, str)
    if many and any(isinstance(one, Dataset) for one in value):
        return ""  # a sequence where a text should be; as text it may take minutes
    return "\\".join(str(one).strip() for one in (value if many else (value,)))


def words(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return a multi-valued code string, one text for each value."""
    joined = text(dataset, keyword)
    return tuple(joined.split("\\")) if joined else ()


def reals(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """Return all values if each is a finite number, else none."""
    try:
        values = tuple(float(one) for one in words(dataset, keyword))
    except ValueError:
        return ()
    return values if all(math.isfinite(one) for one in values) else ()


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Return exactly `count` finite numbers, or None."""
    values = reals(dataset, keyword)
    return values if len(values) == count else None


def real(dataset: Dataset, keyword: str) -> float | None:
    """Return one finite number, or None."""
    values = numbers(dataset, keyword, 1)
    return values[0] if values else None


def number(dataset: Dataset, keyword: str) -> int | None:
    """Return one whole number, or None."""
    value = real(dataset, keyword)
    return int(value) if value is not None and value == int(value) else None


def moment(dataset: Dataset, date: str, time: str) -> datetime | None:
    """Return a date and time with its zone, or None when the date is not usable.

    Without TimezoneOffsetFromUTC the zone is unknown; it is taken as UTC, which
    orders objects of one site, and is no statement about when something happened.
    """
    day, clock = text(dataset, date), text(dataset, time)
    digits = (clock.partition(".")[0] + "000000")[:6]
    try:
        local = datetime.strptime(day + digits, "%Y%m%d%H%M%S")  # noqa: DTZ007 - next
    except ValueError:
        return None
    return local.replace(tzinfo=zone(dataset) or UTC)


def study_day(dataset: Dataset) -> date | None:
    """Return the day of the examination, from the first usable date of the header."""
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        digits = text(dataset, keyword).replace(".", "")  # ACR-NEMA wrote 2026.03.04
        try:
            return datetime.strptime(digits, "%Y%m%d").date()  # noqa: DTZ007 - a day
        except ValueError:
            continue
    return None


def zone(dataset: Dataset) -> timezone | None:
    """Return the zone that TimezoneOffsetFromUTC (&ZZXX) states, or None."""
    offset = text(dataset, "TimezoneOffsetFromUTC")
    if OFFSET_PATTERN.fullmatch(offset) is None:
        return None
    shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5]))
    return timezone(-shift if offset[0] == "-" else shift)
