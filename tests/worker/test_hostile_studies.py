"""Damaged and hostile objects on the whole way: kept or refused, then a reason."""

import contextlib
import io
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from pynetdicom.dsutils import split_dataset

from dicom_node import ledger
from dicom_node.codestream import COMPRESSED, UNCOMPRESSED
from dicom_node.db import now
from dicom_node.errors import UnreadableObjectError
from dicom_node.header import read_header
from dicom_node.intake import StoreRefusedError, StoreRequest
from dicom_node.study import Reason, StudyState, StudyUid
from tests import dicom_objects
from worker.tasks.analysis import analyze

ENDED = {StudyState.HELD, StudyState.IGNORED, StudyState.FAILED}
pytestmark = pytest.mark.filterwarnings("ignore")  # hostile files make pydicom warn


def received(bench, path: Path) -> StudyUid | None:
    """Give a file to the intake as its sender would; None when it is refused."""
    content, syntax = path.read_bytes(), str(ImplicitVRLittleEndian)
    with contextlib.suppress(Exception):
        syntax = str(dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID)
        content = content[split_dataset(path)[1] :]
    if syntax not in {*UNCOMPRESSED, *COMPRESSED}:
        return None  # not negotiated
    try:
        header = read_header(io.BytesIO(content), syntax)
        announced = (header.sop_class_uid, header.sop_instance_uid)
    except UnreadableObjectError:
        announced = ("1.2", "1.2.3")
    request = StoreRequest(*announced, syntax, "PACS", io.BytesIO(content))
    try:
        kept = bench.intake.keep(request)
    except StoreRefusedError:
        return None
    with bench.sessions.begin() as session:
        ledger.record(session, [kept], bench.quiet, now())
    return kept.study_uid


def test_every_malformed_file_ends_its_study_with_a_reason(bench, source, real_data):
    ended = 0
    for path in sorted((real_data / "malformed").rglob("*")):
        if not path.is_file() or path.name.startswith(("LICENSE", "SOURCE")):
            continue
        uid = received(bench, path)
        if uid is None:
            continue
        bench.queue(uid)
        analyze(uid, bench.site, source)
        study = bench.study(uid)
        assert study.state in ENDED, path.name
        assert study.reason not in {Reason.ANALYSIS_ERROR, Reason.WORKER_LOST}, (
            path.name
        )
        assert study.detail, path.name
        ended += 1
    assert ended >= 10


def bomb_of_runs(slices) -> None:
    """Let the marked slice claim 4096 x 4096 pixels in a few bytes of RLE."""
    marked = slices[4]
    marked.Rows = marked.Columns = 4096
    marked.file_meta.TransferSyntaxUID = RLELossless
    head = (2).to_bytes(4, "little") + (64).to_bytes(4, "little")
    frame = head + (66).to_bytes(4, "little") + bytes(52) + b"\x81\0\x81\0"
    item = b"\xfe\xff\x00\xe0" + len(frame).to_bytes(4, "little") + frame
    marked.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" + item
    marked["PixelData"].VR = "OB"
    marked["PixelData"].is_undefined_length = True


def nested_items(slices) -> None:
    """Nest 3000 sequences behind the header of the marked slice."""
    element = b""
    for _ in range(3000):
        item = b"\xfe\xff\x00\xe0" + len(element).to_bytes(4, "little") + element
        element = b"\x09\x00\x10\x10SQ\0\0" + len(item).to_bytes(4, "little") + item
    slices[4].add_new(0x00091010, "UN", element)


@pytest.mark.parametrize("harm", [bomb_of_runs, nested_items])
def test_a_bomb_ends_its_study_and_the_next_is_analysed(bench, slices, source, harm):
    mark = dicom_objects.gsps_rectangle([slices[4]])
    harm(slices)
    uid = bench.receive(*slices, mark)
    good = dicom_objects.fresh_study("beside a bomb")
    other = bench.receive(*good, dicom_objects.gsps_rectangle([good[4]]))
    for each in (uid, other):
        bench.queue(each)
        analyze(each, bench.site, source)

    study = bench.study(uid)
    assert study.state in {*ENDED, StudyState.ANALYZED}
    assert study.reason not in {Reason.ANALYSIS_ERROR, Reason.WORKER_LOST}
    assert bench.study(other).state is StudyState.ANALYZED
