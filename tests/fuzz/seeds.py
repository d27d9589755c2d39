"""Valid inputs to begin with, as other people's libraries write them."""

import struct

import numpy as np
from openjpeg.utils import encode_array
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.pixels import get_encoder
from pydicom.uid import (
    EnhancedMRImageStorage,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.part10 import FileMeta, encode_meta
from tests import dicom_objects, roi_objects
from tests.dicom_objects import BOX, lenient, mr_slice
from tests.pathology_messages import message, order

SIDE = 48
FRAMES = 3


def encoded(dataset: Dataset, *, implicit: bool = False) -> bytes:
    """The bytes of a data set alone, Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    with lenient():
        write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def whole(data: bytes, sop_class: str, syntax: str) -> bytes:
    """The Part 10 file of an encoded data set, as the spool writes it."""
    return encode_meta(FileMeta(sop_class, "1.2.3.4", syntax, "FUZZ")) + data


def image() -> Dataset:
    """The slice that every carrier of a rectangle refers to."""
    return mr_slice()


KEPT = frozenset({0x00080005, 0x00080016, 0x00080018, 0x00080060})
UNNEEDED = frozenset({0x0018A001, 0x0040A370, 0x0040A372, 0x0040A375, 0x0040A385})


def lean(document: Dataset) -> Dataset:
    """Take away what no reader looks at: mutations shall hit the rest."""
    for element in list(document):
        tag = element.tag
        patient = tag.group in {0x0008, 0x0010} and tag not in KEPT
        if tag in UNNEEDED or (
            patient and element.keyword != "ReferencedSeriesSequence"
        ):
            del document[tag]
    if "ContentSequence" in document:
        document.ContentSequence = [
            one for one in document.ContentSequence if _tells(one)
        ]
    return document


def _tells(item: Dataset) -> bool:
    kinds = {"SCOORD", "SCOORD3D", "PNAME", "IMAGE"}
    return item.get("ValueType") in kinds or any(
        map(_tells, item.get("ContentSequence") or ())
    )


def carriers() -> dict[str, tuple[Dataset, bool]]:
    """Every carrier by name, and whether it keeps a rectangle exactly."""
    on = image()
    made = {name: (write, True) for name, write in roi_objects.EXACT.items()}
    made |= {name: (write, False) for name, write in roi_objects.WHOLE.items()}
    found = {
        name: (lean(write(on, BOX)), exact) for name, (write, exact) in made.items()
    }
    return found | {"KOS": (lean(dicom_objects.key_object(on)), False)}


def overlaid() -> bytes:
    """A small image with a drawn rectangle in an overlay plane."""
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint16)
    made = mr_slice(image=pixels)
    roi_objects.with_overlay(made, roi_objects.outline(made, (10, 12, 30, 28)))
    return encoded(made)


def stack() -> np.ndarray:
    """(frames, rows, columns) of 12 bits."""
    return np.random.default_rng(3).integers(0, 4096, (FRAMES, SIDE, SIDE))


def enhanced() -> Dataset:
    """An enhanced MR object whose frames have places and slopes of their own."""
    made = mr_slice(image=stack()[0].astype("<u2"))
    made.SOPClassUID = EnhancedMRImageStorage
    made.NumberOfFrames = FRAMES
    made.PixelData = stack().astype("<u2").tobytes()
    groups = []
    for n in range(FRAMES):
        scale, place, content, group = Dataset(), Dataset(), Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = str(n + 1), "-1"
        place.ImagePositionPatient = [0.0, 0.0, float(n)]
        content.FrameAcquisitionNumber, content.TemporalPositionIndex = 1, n + 1
        group.PixelValueTransformationSequence = [scale]
        group.PlanePositionSequence = [place]
        group.FrameContentSequence = [content]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    return made


def single() -> Dataset:
    """A small slice, uncompressed."""
    return mr_slice(image=stack()[0].astype("<u2"))


def frame_of(syntax: str) -> bytes:
    """One compressed frame."""
    values = stack()[0]
    if syntax in {RLELossless, JPEGLSLossless}:
        return get_encoder(syntax).encode(
            values.astype("<u2"),
            rows=SIDE,
            columns=SIDE,
            samples_per_pixel=1,
            bits_allocated=16,
            bits_stored=12,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
        )
    return encode_array(values.astype("u2"), bits_stored=12)


def jpeg_head() -> bytes:
    """The segments of a lossless JPEG up to its scan, without samples behind them."""
    app = b"\xff\xe0" + struct.pack(">H", 6) + b"JFIF"
    sof = b"\xff\xc3" + struct.pack(">HBHHB3s", 11, 12, SIDE, SIDE, 1, b"\x01\x11\x00")
    dht = b"\xff\xc4" + struct.pack(">H", 22) + bytes(20)
    scan = b"\xff\xda" + struct.pack(">H", 8) + b"\x01\x01\x00\x01\x00\x00"
    return b"\xff\xd8" + app + sof + dht + scan + bytes(30) + b"\xff\xd9"


def commitment() -> bytes:
    """The information of a storage commitment report."""
    report, done, failed = Dataset(), Dataset(), Dataset()
    report.TransactionUID = "1.2.3.4.5"
    done.ReferencedSOPClassUID = failed.ReferencedSOPClassUID = "1.2.3"
    done.ReferencedSOPInstanceUID, failed.ReferencedSOPInstanceUID = "1.2.7", "1.2.8"
    failed.FailureReason = 0x0112
    report.ReferencedSOPSequence, report.FailedSOPSequence = [done], [failed]
    return encoded(report)


def messages() -> list[bytes]:
    """HL7 messages of one and of two sides, and one in another character set."""
    return [
        message(order()),
        message(order("negativ", side="Left axilla"), order(side="Right axilla")),
        message(order("pN0(i+)(sn)", "C"), charset="8859/1"),
        message(
            order(),
            "SPM|1|||309079007^axilla^SCT|||||||||||||20260402",
            "NTE|1||free text",
            kind="ORU^R01",
        ),
    ]


LINES = (
    b"patient_id,side,result,deposit,performed_on,source\n"
    b"MARKER-PID-1,L,positive,macro,2026-04-01,board\n"
    b'MARKER-PID-2,R,negative,itc,2026-04-02,"a ""quoted"", text"\n'
)
PATHOLOGY_LINES = (
    b"patient_id;side;nsln;alnd;alnd_on;sln;deposit;source;age\n"
    b"MARKER-PID-1;L;positive;yes;2026-04-01;positive;macro;board;44\n"
)
PEERS = (
    b"PACS@192.0.2.4:104",
    b"SCANNER@10.0.0.0/8",
    b"AE@[2001:db8::1]:11112",
    b"https://pacs.example:8443/dicom-web",
    b"A=600,B=300",
    b"::ffff:10.1.2.3%eth0",
    b"1.2.840.10008.1.2.1",
)
