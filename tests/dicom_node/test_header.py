"""The header that files an instance: right on real files, cheap on hostile ones."""

import io
import struct
import tracemalloc
import warnings

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pynetdicom.dsutils import encode, split_dataset

from dicom_node.errors import UnreadableObjectError
from dicom_node.header import MAX_ELEMENTS, read_header
from tests.dicom_node.conftest import dataset, encoded

PLAIN = encoded(dataset(1))
EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
UNREAD = {DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
SEQUENCE = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF)
ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
SEQUENCE_END = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
EMPTY_ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
BEFORE_STUDY = PLAIN.index(b"\x10\x00\x10\x00PN")


def with_sequence(*parts: bytes) -> bytes:
    """A data set with a sequence of undefined length ahead of the patient."""
    inside = b"".join(parts)
    return (
        PLAIN[:BEFORE_STUDY] + SEQUENCE + inside + SEQUENCE_END + PLAIN[BEFORE_STUDY:]
    )


def read(data: bytes, syntax: str = EXPLICIT):
    return read_header(io.BytesIO(data), syntax)


@pytest.mark.filterwarnings("ignore")  # real files make pydicom warn
def test_on_real_files_it_is_what_pydicom_reads(real_data):
    compared = 0
    for path in sorted((real_data / "mr-multivendor").rglob("*")):
        try:
            whole = dcmread(path, stop_before_pixels=True)
            syntax = whole.file_meta.TransferSyntaxUID
            start = split_dataset(path)[1]
        except Exception:  # noqa: BLE001, S112 - no DICOM file
            continue
        if syntax in UNREAD:
            continue
        found = read(path.read_bytes()[start:], syntax)
        assert found.study_uid == whole.StudyInstanceUID
        assert found.series_uid == whole.SeriesInstanceUID
        assert found.sop_instance_uid == whole.SOPInstanceUID
        assert found.patient_id == str(whole.get("PatientID") or "")
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("length", ["defined", "undefined"])
def test_sequences_are_passed_over(syntax, length):
    made = dataset(1)
    inner = dataset(2, study="9.9")
    inner.ReferencedImageSequence = [dataset(3, study="8.8")]
    made.ReferencedImageSequence = [inner, dataset(4, study="7.7")]
    for sequence in (made, inner):
        sequence["ReferencedImageSequence"].is_undefined_length = length == "undefined"
        for item in sequence.ReferencedImageSequence:
            item.is_undefined_length_sequence_item = length == "undefined"
    data = encode(made, is_implicit_vr=syntax == IMPLICIT, is_little_endian=True)
    assert read(data, syntax) == read(PLAIN)


@pytest.mark.parametrize(
    "parts",
    [
        (EMPTY_ITEM * 2_000_000,),
        ((ITEM + SEQUENCE) * 50_000,),
        ((ITEM + SEQUENCE) * 50_000, (SEQUENCE_END + ITEM_END) * 50_000),
        (ITEM + PLAIN[:BEFORE_STUDY] + ITEM_END,) * 20_000,
    ],
    ids=["empty items", "without end", "nested", "many items"],
)
def test_what_a_sequence_holds_takes_no_memory(parts):
    data = io.BytesIO(with_sequence(*parts))
    tracemalloc.start()
    try:
        read_header(data, EXPLICIT)
    except UnreadableObjectError as error:
        refused = str(error)
    else:
        refused = ""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert refused in {"", "a mandatory UID is missing"} or "ValueError" in refused


def test_more_elements_than_any_header_has_are_not_read():
    with pytest.raises(UnreadableObjectError, match="does not parse"):
        read(with_sequence(EMPTY_ITEM * MAX_ELEMENTS))


def test_a_header_that_ends_within_a_uid_is_refused():
    end = PLAIN.index(b"1.2.3.4", PLAIN.index(b"\x20\x00\x0e\x00")) + 3
    with pytest.raises(UnreadableObjectError, match="cut off"):
        read(PLAIN[:end])


@pytest.mark.parametrize("padding", ["", "\0", "  ", " \0 \0"])
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_a_uid_of_nothing_but_padding_is_none(keyword, padding):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the UID, as it should
        content = encoded(dataset(1, **{keyword: padding}))
    with pytest.raises(UnreadableObjectError, match="a mandatory UID is missing"):
        read(content)


def test_no_byte_of_it_makes_a_warning():
    odd = PLAIN.replace(b"MARKER-PID", b"\x1b$\xff\\\x00\xfe^=AB")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(with_sequence(EMPTY_ITEM) + odd)
        read(odd)
