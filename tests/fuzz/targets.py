"""What is fuzzed: the readers of bytes that strangers send, each with its promise.

A target takes an input and returns what came of it, in a few words. It raises `Broken`
when what came of it may not be; any other exception than our own is a fault too.
"""

import asyncio
import csv
import io
import math
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

from pydicom.encaps import encapsulate
from pydicom.uid import (
    ComprehensiveSRStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from pynetdicom.dsutils import decode

from dicom_node import (
    codestream,
    commitment,
    committer,
    envelope,
    header,
    hl7,
    mllp,
    part10,
    pixels,
    vocabulary,
)
from dicom_node.destination import parse_destination
from dicom_node.envelope import NotHl7Error, RefusedError
from dicom_node.errors import NodeError
from dicom_node.findings import Roi
from dicom_node.images import (
    DOCUMENT_CLASSES,
    LABEL_MAP_SEGMENTATION,
    MrImage,
    read_study,
)
from dicom_node.intake import Intake, StoreRefusedError, StoreRequest
from dicom_node.ledger import Conflict
from dicom_node.roi import RoiReading, read_rois
from dicom_node.settings import AllowedPeer, load, pairs, split_list, unmapped
from dicom_node.spool import Spool
from dicom_node.study import (
    Peer,
    SopInstanceUid,
    StoredInstance,
    is_valid_uid,
)
from tests import dicom_objects
from tests.fuzz import mutation, seeds
from tests.fuzz.mutation import Mutate
from worker.cli import pathology_file, slnd_file
from worker.cli.context import Site
from worker.settings import WorkerSettings

SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    *(JPEG2000Lossless, HTJ2KLossless, RLELossless),
    *(JPEGLSLossless, JPEGLosslessSV1, JPEGLossless),
)
STATUSES = {0xA700, 0xA900, 0xC000, 0xC001, 0xC002}
SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
NUMBERS = re.compile(r"[\d.]+")
CARRIERS = (LABEL_MAP_SEGMENTATION, *sorted(DOCUMENT_CLASSES, reverse=True))
LITERAL = {ComprehensiveSRStorage, GrayscaleSoftcopyPresentationStateStorage}
"""Classes whose edges must stand in the bytes, as numbers."""


class Broken(AssertionError):  # noqa: N818 - it is no error of the product
    """A promise that an input broke."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that reads what strangers send.

    `weight` shares out what is left when each target has had its least: to those of
    which one input takes microseconds.
    """

    name: str
    run: Callable[[bytes], str]
    seeds: Sequence[bytes]
    mutate: Mutate
    weight: int = 0


@cache
def folder() -> Path:
    """Where this process writes files: in memory where that can be had."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of random name below it
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


def clean() -> None:
    """Remove what this process wrote."""
    shutil.rmtree(folder(), ignore_errors=True)
    folder.cache_clear()


def demand(condition: object, what: str) -> None:
    """Raise when a promise is broken."""
    if not condition:
        raise Broken(what)


def said(text: str) -> str:
    """A sentence without its numbers, to count kinds of outcomes."""
    return NUMBERS.sub("#", text)[:120]


# What a C-STORE brings


def read_header(data: bytes) -> str:
    """The header that files an instance; the first byte chooses the syntax."""
    syntax = SYNTAXES[data[0] % len(SYNTAXES)] if data else SYNTAXES[0]
    try:
        found = header.read_header(io.BytesIO(data[1:]), syntax)
    except NodeError as error:
        return said(str(error))
    demand(all((found.sop_class_uid, found.study_uid)), "a header without UIDs")
    return "header"


@cache
def _intake() -> Intake:
    return Intake(Spool(folder() / "spool"), b"s" * 32, 0, 2**30)


def store(data: bytes) -> str:
    """The whole way of a data set to its file and its answer."""
    syntax = SYNTAXES[data[0] % len(SYNTAXES)] if data else SYNTAXES[0]
    announced = _announced(data[1:], syntax)
    request = StoreRequest(*announced, syntax, "FUZZ", io.BytesIO(data[1:]))
    root = _intake().spool.root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    try:
        kept = _intake().keep(request)
    except StoreRefusedError as error:
        demand(error.status in STATUSES, f"status {error.status:04X}")
        demand(not any(root.rglob("*")), "a refused object left something behind")
        return f"0x{error.status:04X} {said(str(error))}"
    demand(not isinstance(kept, Conflict), "a conflict in an empty spool")
    files = [path for path in root.rglob("*") if path.is_file()]
    demand(files == [root / kept.path], "not exactly the one file")
    demand(files[0].read_bytes().endswith(data[1:]), "the bytes were changed")
    demand(_intake().rebuild(kept.path) == kept, "its file tells something else")
    demand(_intake().keep(request) == kept, "sent again, it is another")
    return "0x0000"


def _announced(data: bytes, syntax: str) -> tuple[str, str]:
    try:
        found = header.read_header(io.BytesIO(data), syntax)
    except NodeError:
        return MRImageStorage, "1.2.3.4"
    if not (is_valid_uid(found.sop_class_uid) and is_valid_uid(found.sop_instance_uid)):
        return MRImageStorage, "1.2.3.4"
    return found.sop_class_uid, found.sop_instance_uid


def read_meta(data: bytes) -> str:
    """The file meta information of what lies in the spool."""
    try:
        part10.read_meta(io.BytesIO(data))
    except NodeError as error:
        return said(str(error))
    return "meta"


class Reported:
    """An N-EVENT-REPORT whose information is decoded when it is asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def event_information(self) -> object:
        return decode(io.BytesIO(self._data), False, True)


def read_report(data: bytes) -> str:
    """A report on storage commitment."""

    def enter(report: commitment.Report) -> bool:
        demand(all(map(is_valid_uid, report.committed)), "a UID that is none")
        return True

    status, _ = committer.take_report(Reported(data), enter)
    demand(status in {0x0000, 0x0115}, f"status {status:04X}")
    return f"0x{status:04X}"


# What lies in a study


@cache
def images() -> tuple[MrImage, ...]:
    """The image that every carrier refers to."""
    (folder() / "image").mkdir(exist_ok=True)
    return read_study(dicom_objects.store(folder() / "image", [seeds.image()])).images


def stored(data: bytes, sop_class: str, syntax: str) -> StoredInstance:
    """A file of the spool with a row of the ledger, whatever is in it."""
    path = folder() / "one.dcm"
    path.write_bytes(seeds.whole(data, sop_class, syntax))
    return StoredInstance(SopInstanceUid("1.2.3.4"), "1.2.3", sop_class, path, "")


def read_carrier(sop_class: str, data: bytes) -> RoiReading | str:
    """What a document says, on the way that an analysis takes."""
    objects = read_study([stored(data, sop_class, ExplicitVRLittleEndian)])
    if objects.unreadable:
        return said(objects.unreadable[0])
    return read_rois(objects.documents, images())


def carrier(data: bytes) -> str:
    """A document that may carry rectangles, of the SOP class that it names itself."""
    sop_class = next((one for one in CARRIERS if one.encode() in data), CARRIERS[-1])
    reading = read_carrier(sop_class, data)
    if isinstance(reading, str):
        return reading
    for roi in reading.rois:
        check_rectangle(roi)
        if sop_class in LITERAL and b"DISPLAY" not in data:
            check_origin(roi, data)
    refused = said(reading.refused[0].partition(": ")[2]) if reading.refused else ""
    return f"{min(len(reading.rois), 3)} {len(reading.key_images) > 0} {refused}"


def check_rectangle(roi: Roi) -> None:
    """Demand what holds of every rectangle that goes on."""
    x0, y0, x1, y1 = roi.box
    demand(all(map(math.isfinite, roi.box)), "an edge that is no number")
    demand(x0 <= x1 and y0 <= y1, "a rectangle inside out")
    demand(roi.frame >= 1, "a frame before the first")


def check_origin(roi: Roi, data: bytes) -> None:
    """Demand that no edge was made up."""
    for edge in roi.box:
        forms = (struct.pack("<f", edge), struct.pack("<d", edge))
        written = (
            f"{edge:g}".encode(),
            f"{edge}".encode(),
            struct.pack("<h", int(edge) % 2**15),
        )
        demand(any(one in data for one in forms + written), "an edge from nowhere")


def read_overlay(data: bytes) -> str:
    """An image with an overlay plane."""
    objects = read_study([stored(data, MRImageStorage, ExplicitVRLittleEndian)])
    reading = read_rois(objects.documents, objects.images, overlays=True)
    for roi in reading.rois:
        check_rectangle(roi)
    why = [*objects.unreadable, *reading.refused, ""][0]
    return f"{min(len(reading.rois), 3)} {said(why.rpartition(': ')[2])}"


def read_image(data: bytes) -> str:
    """Header and pixels of every frame; the first byte chooses class and syntax."""
    chosen = data[0] if data else 0
    sop_class = (MRImageStorage, EnhancedMRImageStorage)[chosen % 2]
    syntax = SYNTAXES[chosen // 2 % len(SYNTAXES)]
    objects = read_study([stored(data[1:], sop_class, syntax)])
    if objects.unreadable:
        return said(objects.unreadable[0])
    outcomes = set()
    for one in objects.images[:2]:
        try:
            values = pixels.read_pixels(one.path, one.frame)
        except NodeError as error:
            outcomes.add(said(str(error)))
        else:
            demand(values.shape == (one.rows, one.columns), "pixels of another shape")
            outcomes.add("pixels")
    return f"{min(len(objects.images), 4)} {sorted(outcomes)[:1]}"


@cache
def _around() -> tuple[bytes, bytes]:
    """The header of a small slice, and the head of its encapsulated pixel data."""
    made = seeds.single()
    del made.PixelData
    return seeds.encoded(made), struct.pack(
        "<HH2sHI", 0x7FE0, 0x10, b"OB", 0, 2**32 - 1
    )


def decompress(data: bytes) -> str:
    """A compressed frame, through the decoders; the first byte chooses the syntax."""
    syntax = SYNTAXES[2 + (data[0] if data else 0) % (len(SYNTAXES) - 2)]
    before, head = _around()
    content = before + head + encapsulate([data[1:] or b"\0"]) + SEQUENCE_END
    path = stored(content, MRImageStorage, syntax).path
    try:
        values = pixels.read_pixels(path, 1)
    except NodeError as error:
        return said(str(error))
    demand(values.shape == (seeds.SIDE, seeds.SIDE), "pixels of another shape")
    return f"pixels {syntax}"


def inspect(data: bytes) -> str:
    """What a codestream says of itself; two bytes choose syntax and depth."""
    syntax = SYNTAXES[2 + (data[0] if data else 0) % (len(SYNTAXES) - 2)]
    try:
        found = codestream.inspect(data[2:], syntax, 1 + len(data) % 2)
    except NodeError as error:
        return said(str(error))
    demand(found is None or min(found.rows, found.columns) >= 0, "a size below 0")
    return "stated"


# Pathology


@cache
def _words() -> vocabulary.Vocabulary:
    return vocabulary.default()


def read_message(data: bytes) -> str:
    """An HL7 message, up to the answer that it is given."""
    try:
        found = envelope.read_header(data)
    except NotHl7Error:
        return "no message"
    code, why, condition = "AA", "", None
    statements: Sequence[hl7.Statement] = ()
    try:
        envelope.demand_supported(found, "P")
        statements = hl7.parse(data, found, _words()).statements
    except RefusedError as error:
        code, why, condition = error.code, error.text, error.condition
    answer = envelope.acknowledge(found, code, why, condition, "1")
    envelope.content_of(data)
    demand(answer.startswith(b"MSH") and answer.count(b"\r") <= 3, "no answer")
    for one in statements:
        demand(one.problem or one.side, "a complete statement without a side")
        demand(one.problem or one.result, "a complete statement without a result")
    problems = [one.problem for one in statements][:1]
    return f"{code} {said(why)} {len(statements)} {problems}"


@cache
def _server() -> tuple[asyncio.AbstractEventLoop, mllp.Server]:
    limits = mllp.Limits(2000, timedelta(seconds=5), timedelta(seconds=5))
    service = mllp.Service(bytes, bytes, (), limits)
    return asyncio.new_event_loop(), mllp.Server(service)


def frame(data: bytes) -> str:
    """The framing around HL7 messages, on one connection."""
    loop, server = _server()

    async def talk() -> str:
        reader = asyncio.StreamReader(limit=2000)
        reader.feed_data(data)
        reader.feed_eof()
        taken = 0
        while (request := await server._request(reader)) is not None:  # noqa: SLF001 - what stands behind the socket
            demand(len(request[1]) <= mllp.HEAD_BYTES, "more than may be kept")
            taken += 1
        return f"{min(taken, 5)} messages"

    try:
        return loop.run_until_complete(talk())
    except (mllp.UnframedError, asyncio.IncompleteReadError) as error:
        return type(error).__name__


# What people and files give


def read_peer(data: bytes) -> str:
    """AE titles, addresses, lists and destinations."""
    text = data.decode("utf-8", "surrogateescape")
    outcomes = ""
    for read in (Peer.parse, AllowedPeer.parse, parse_destination, unmapped):
        try:
            found = read(text)
        except ValueError:
            outcomes += "0"
            continue
        outcomes += "1"
        if isinstance(found, AllowedPeer):
            found.admits("PACS", "192.0.2.4")
        elif read is not parse_destination:
            demand(read(str(found)) == found, "written, it reads as another")
    pairs(text), split_list(text)
    return outcomes + str(is_valid_uid(text))


@cache
def _site() -> Site:
    settings = load(WorkerSettings, data_dir=folder() / "site")
    return Site(settings=settings, _engine=None)  # type: ignore[arg-type] # not asked


def read_lines(data: bytes) -> str:
    """The lines of a CSV file of results, or of pathology."""
    kind, text = (data[:1] or b"\0")[0] % 2, data[1:].decode("cp1252", "replace")
    columns = (pathology_file.REQUIRED, pathology_file.OPTIONAL) if kind else ()
    read = pathology_file.read if kind else slnd_file.line_of
    try:
        reader = slnd_file.reader_of(text, *columns)
        for number, row in enumerate(reader, start=2):
            read(_site(), number, row, "")
    except (NodeError, csv.Error) as error:
        return said(str(error))
    return "lines"


def _carriers() -> list[Target]:
    """One target for each kind of carrier."""
    groups: dict[str, list[bytes]] = {}
    for name, (document, _) in seeds.carriers().items():
        groups.setdefault(name.split()[0].lower(), []).append(seeds.encoded(document))
    return [
        Target(name, carrier, given, mutation.of_dataset)
        for name, given in groups.items()
    ]


@cache
def all_targets() -> dict[str, Target]:
    """Every target by its name."""
    dataset = mutation.behind(1, mutation.of_dataset)
    coded = mutation.behind(1, mutation.of_bytes)
    plain = [
        b"\0" + seeds.encoded(seeds.single()),
        b"\0" + seeds.encoded(seeds.image()),
    ]
    plain += [b"\1" + seeds.encoded(seeds.single(), implicit=True)]
    heads = [
        one[: one.index(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00" for one in plain
    ]
    frames = [
        bytes([SYNTAXES.index(syntax) - 2]) + seeds.frame_of(syntax)
        for syntax in (JPEG2000Lossless, RLELossless, JPEGLSLossless)
    ]
    jpeg = bytes([SYNTAXES.index(JPEGLossless) - 2]) + seeds.jpeg_head()
    inspected = [one[:1] + b"\0" + one[1:400] for one in (*frames, jpeg)]
    lines = [b"\0" + seeds.LINES, b"\1" + seeds.PATHOLOGY_LINES]
    meta = seeds.whole(b"", MRImageStorage, ExplicitVRLittleEndian)
    blocks = [b"\x0b" + one + b"\x1c\r" for one in seeds.messages()]
    blocks += [b"\r\n".join(blocks), b"\x0b" + bytes(3000) + b"\x1c\r"]
    enhanced = b"\1" + seeds.encoded(seeds.enhanced())
    overlay = seeds.overlaid()
    found = [
        Target("header", read_header, heads, dataset, weight=1),
        Target("store", store, [*heads, plain[0]], dataset),
        Target("meta", read_meta, [meta], mutation.of_bytes, weight=3),
        Target("commitment", read_report, [seeds.commitment()], mutation.of_dataset),
        *_carriers(),
        Target("overlay", read_overlay, [overlay], mutation.of_dataset),
        Target("image", read_image, [plain[0], enhanced], dataset),
        Target("decoder", decompress, [*frames, jpeg], coded),
        Target(
            "codestream",
            inspect,
            inspected,
            mutation.behind(2, mutation.of_bytes),
            weight=3,
        ),
        Target("hl7", read_message, seeds.messages(), mutation.of_text),
        Target("mllp", frame, blocks, mutation.of_text, weight=1),
        Target("peer", read_peer, seeds.PEERS, mutation.of_text, weight=4),
        Target("csv", read_lines, lines, mutation.behind(1, mutation.of_text)),
    ]
    return {target.name: target for target in found}
