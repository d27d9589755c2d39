"""Every way in which pixels are stored, against other people's decoders."""

import shutil
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import gdcm
import numpy as np
import pytest
from openjpeg.utils import encode_array
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate, encapsulate_extended, generate_frames
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_node.attributes import number, read_header, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.images import read_study
from dicom_node.pixels import read_pixels
from dicom_node.study import StoredInstance
from tests import dicom_objects
from tests.dicom_objects import mr_slice

NOISE = np.random.default_rng(5)

EXPECTED = {
    ("dcmqa-enh", "philips-achieva-dstream-enhanced-64f.dcm"): (
        64,
        64,
        64,
        0,
        1777.716,
    ),
    ("dcmqa-enh", "siemens-vida-xa10-enhanced.dcm"): (64, 64, 6, 0, 1195),
    ("dcmqa-nih", "axial_epi_fmri_interleaved_i_to_s-00001.dcm"): (64, 64, 1, 0, 5702),
    ("dcmqa-nih", "axial_epi_fmri_interleaved_i_to_s-00002.dcm"): (64, 64, 1, 0, 5487),
    ("dcmqa-nih", "epi_pe_ap-00001.dcm"): (216, 216, 1, 0, 1176),
    ("ge-hdx-noext", "*"): (64, 64, 1, 0, 254),
    ("ge-mr750-explicit", "*"): (256, 256, 1, 0, 254),
    ("ge-signa-pioneer", "i22.MRDC.1"): (256, 256, 1, 0, 6375),
    ("ge-signa-pioneer", "i23.MRDC.2"): (256, 256, 1, 0, 6283),
    ("philips-achieva-dstream", "*"): (80, 80, 1, 0, 254),
    ("siemens-trio", "*"): (256, 256, 1, 0, 254),
    ("siemens-trio-rle", "*"): (256, 256, 1, 0, 254),
    ("siemens-trio-jpegls", "*"): (256, 256, 1, 0, 254),
    ("siemens-trio-jpeg-lossless", "*"): (256, 256, 1, 0, 254),
    ("siemens-trio-jpeg2000-lossless", "*"): (256, 256, 1, 0, 254),
    ("pydicom", "MR-SIEMENS-DICOM-WithOverlays.dcm"): (484, 484, 1, 0, 1123),
    ("pydicom", "MR2_J2KI.dcm"): "1.2.840.10008.1.2.4.91 is not a lossless one",
    ("pydicom", "emri_small_jpeg_2k_lossless_too_short.dcm"): "are cut off",
    ("pydicom", "J2K_pixelrep_mismatch.dcm"): (512, 512, 1, -2000, 1896),
    ("pydicom", "JPEG2000-embedded-sequence-delimiter.dcm"): "is not a lossless one",
    ("pydicom", "MR_truncated.dcm"): "cut off: 8130 bytes of 8192",
    ("pydicom", "badVR.dcm"): "BitsAllocated is 32",
    ("pydicom", "image_dfl.dcm"): "deflated",
    ("pydicom", "ExplVR_BigEnd.dcm"): "not a grey-scale image",
    ("pydicom", "SC_rgb_small_odd.dcm"): "not a grey-scale image",
    ("pydicom", "rtplan_truncated.dcm"): "Rows is absent",
    ("pydicom", "ExplVR_BigEndNoMeta.dcm"): "the file cannot be read",
    ("pydicom", "ExplVR_LitEndNoMeta.dcm"): "the file cannot be read",
    ("pydicom", "no_meta.dcm"): "the file cannot be read",
    ("pydicom", "zipMR.gz"): "the file cannot be read",
    ("pydicom", "emri*"): (64, 64, 10, 0, 425),
    ("pydicom", "MR_small*"): (64, 64, 1, 127, 2145),
    ("pydicom", "*"): "names no SOP class or SOP instance",
    ("dcm4che", "MR-JPEGLosslessSV1.dcm"): (256, 256, 1, 0, 1973.837),
    ("dcm4che", "3gb-bulk-data-truncated"): "Rows is absent",
    ("dcm4che", "no_preamble_dicm_in_data"): "names no SOP class or SOP instance",
    ("orthanc", "2017-06-27-XSSInjection.dcm"): "holds no pixel data",
    ("orthanc", "2026-03-16-OD-OF-OL.dcm"): "holds no pixel data",
    ("orthanc", "Issue22-NoPixelData.dcm"): "holds no pixel data",
    ("orthanc", "2022-03-08-RicSmi.dcm"): (256, 256, 1, 4, 12033),
    ("orthanc", "ISO_IR13.dcm"): (384, 384, 1, 0, 923),
    ("orthanc", "SCSH31"): (512, 512, 1, 0, 255),
    ("orthanc", "2026-05-06-Deeply-Nested-Sequence.dcm"): "RecursionError",
    ("orthanc", "2026-05-26-oob-monochrome-46341.dcm"): "Rows is 46341",
    ("orthanc", "2026-05-26-oob-monochrome-65535.dcm"): "Rows is 65535",
    ("orthanc", "MultiframeWindowing.dcm"): "SamplesPerPixel is absent",
    ("orthanc", "UnknownSopClassUid.dcm"): "not a grey-scale image",
    ("orthanc", "Issue195.dcm"): "names no SOP class or SOP instance",
    ("orthanc", "*"): "Rows is absent",
}
"""(folder, file name or *) -> (rows, columns, frames, min, max), or the reason."""


def expected(path: Path):
    for (folder, name), outcome in EXPECTED.items():
        if path.parent.name == folder and path.match(name):
            return outcome
    pytest.fail(f"no outcome is stated for {path}")


def files(real_data: Path):
    for folder in ("mr-multivendor", "mr-transfer-syntaxes", "malformed"):
        for path in sorted((real_data / folder).rglob("*")):
            if path.is_file() and not path.name.startswith(("SOURCE", "LICENSE")):
                yield path


def outcome(path: Path):
    """(rows, columns, frames, min, max), or the reason."""
    try:
        values = read_pixels(path, 1)
    except UnreadableObjectError as error:
        return str(error)
    frames = number(read_header(path), "NumberOfFrames") or 1
    return (*values.shape, frames, float(values.min()), float(values.max()))


def test_every_real_file_gives_pixels_or_the_expected_reason(real_data, capsys):
    rows, wrong = [], []
    for path in files(real_data):
        found, wanted = outcome(path), expected(path)
        rows.append(f"{path.parent.name + '/' + path.name:70} {found}")
        if isinstance(wanted, str):
            right = isinstance(found, str) and wanted in found
        else:
            right = not isinstance(found, str) and np.allclose(found, wanted, atol=5e-3)
        if not right:
            wrong.append(f"{path.name}: {found}, expected {wanted}")
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *rows, ""]))
    assert len(rows) > 80
    assert wrong == []


OTHER_DECODERS = {
    JPEGLosslessSV1: "dcmdjpeg",
    JPEGLossless: "dcmdjpeg",
    JPEGLSLossless: "dcmdjpls",
    RLELossless: "dcmdrle",
}


UNSIGNED_BY_GDCM = ("J2K_pixelrep_mismatch.dcm",)
"""Its codestream forgets the sign that its header states; GDCM goes by the first."""


def by_gdcm(path: Path) -> np.ndarray:
    """All stored values as GDCM decodes them, (frames, rows, columns)."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    fmt = image.GetPixelFormat()
    kind = "i" if fmt.GetPixelRepresentation() else "u"
    raw = image.GetBuffer().encode("utf-8", "surrogateescape")
    values = np.frombuffer(raw, f"<{kind}{fmt.GetBitsAllocated() // 8}")
    return values.reshape(-1, image.GetDimension(1), image.GetDimension(0))


def by_dcmtk(path: Path, tool: str, folder: Path) -> np.ndarray:
    """All stored values as DCMTK decodes them, (frames, rows, columns)."""
    target = folder / "plain.dcm"
    subprocess.run([tool, path, target], check=True, capture_output=True)
    plain = dcmread(target)
    kind = "i" if plain.PixelRepresentation else "u"
    values = np.frombuffer(plain.PixelData, f"<{kind}{plain.BitsAllocated // 8}")
    size = plain.Rows * plain.Columns
    frames = int(plain.get("NumberOfFrames") or 1)
    return values[: frames * size].reshape(frames, plain.Rows, plain.Columns)


def test_real_compressed_pixels_agree_with_another_decoder(real_data, tmp_path):
    compared = 0
    for path in files(real_data):
        if isinstance(outcome(path), str) or path.name in UNSIGNED_BY_GDCM:
            continue
        header = dcmread(path, stop_before_pixels=True)
        syntax = header.file_meta.TransferSyntaxUID
        if not syntax.is_compressed:
            continue
        tool = OTHER_DECODERS.get(syntax)
        other = by_dcmtk(path, tool, tmp_path) if tool else by_gdcm(path)
        ours = read_pixels(path, len(other))
        slope = float(header.get("RescaleSlope") or 1)
        start = float(header.get("RescaleIntercept") or 0)
        np.testing.assert_allclose(
            ours, other[-1] * slope + start, rtol=1e-6, err_msg=path.name
        )
        compared += 1
    assert compared >= 25


DEPTHS = [(8, 8, 0), (16, 8, 0), (16, 12, 0), (16, 12, 1), (16, 16, 0), (16, 16, 1)]
"""Bits allocated, bits stored, signed."""


def noisy(stored: int, signed: int, shape=(33, 41)) -> np.ndarray:
    low = -(1 << (stored - 1)) if signed else 0
    values = NOISE.integers(low, low + (1 << stored), shape)
    values[0, :2] = low, low + (1 << stored) - 1
    return values


def slice_of(values: np.ndarray, allocated: int, stored: int, signed: int) -> Dataset:
    """An uncompressed slice whose stored values these are."""
    kind = "i" if signed else "u"
    return mr_slice(
        image=values.astype(f"<{kind}{allocated // 8}"),
        BitsAllocated=allocated,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=signed,
    )


def compressed(dataset: Dataset, frames: list[bytes], syntax: str, **kwargs) -> Dataset:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(frames, **kwargs)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def put(folder: Path, dataset: Dataset) -> Path:
    path = folder / "one.dcm"
    path.write_bytes(dicom_objects.encoded(dataset))
    return path


def by_tool(folder: Path, dataset: Dataset, *command: str) -> Path:
    """The data set as a tool of DCMTK compresses it."""
    source, target = put(folder, dataset), folder / "compressed.dcm"
    subprocess.run([*command, source, target], check=True, capture_output=True)
    return target


@pytest.mark.parametrize("depth", DEPTHS, ids=str)
@pytest.mark.parametrize(
    "command",
    [
        ("dcmcjpeg", "+e1"),
        ("dcmcjpeg", "+el", "+sv", "4"),
        ("dcmcjpls",),
        ("dcmcrle",),
        ("dcmconv", "+ti"),
    ],
    ids=lambda one: one[0],
)
def test_what_dcmtk_compressed_comes_back(tmp_path, depth, command):
    _, stored, signed = depth
    values = noisy(stored, signed)
    path = by_tool(tmp_path, slice_of(values, *depth), *command)
    assert dcmread(path).BitsStored == stored
    np.testing.assert_array_equal(read_pixels(path, 1), values)


@pytest.mark.parametrize("depth", DEPTHS, ids=str)
def test_what_openjpeg_compressed_comes_back(tmp_path, depth):
    allocated, stored, signed = depth
    values = noisy(stored, signed)
    dataset = slice_of(values, *depth)
    code = encode_array(
        values.astype(f"{'i' if signed else 'u'}{allocated // 8}"), bits_stored=stored
    )
    path = put(tmp_path, compressed(dataset, [code], JPEG2000Lossless))
    np.testing.assert_array_equal(read_pixels(path, 1), values)


@pytest.mark.parametrize("stored", [8, 12, 16])
def test_what_openjph_compressed_comes_back(tmp_path, stored):
    tool = shutil.which("ojph_compress")
    if tool is None:
        pytest.skip("OpenJPH is not installed: run `make peers`")
    allocated = 8 if stored == 8 else 16
    values = noisy(stored, 0)
    (tmp_path / "one.pgm").write_bytes(
        f"P5 {values.shape[1]} {values.shape[0]} {(1 << stored) - 1}\n".encode()
        + values.astype(">u1" if stored == 8 else ">u2").tobytes()
    )
    command = [tool, "-i", "one.pgm", "-o", "one.j2c", "-reversible", "true"]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    code = (tmp_path / "one.j2c").read_bytes()
    dataset = slice_of(values, allocated, stored, 0)
    path = put(tmp_path, compressed(dataset, [code], HTJ2KLossless))
    np.testing.assert_array_equal(read_pixels(path, 1), values)


def test_stored_bits_are_taken_from_below_the_high_bit(tmp_path):
    values = noisy(12, 1)
    dirty = (values.astype(np.int64) & 0xFFF) << 3 | 0x8005  # an overlay around them
    dataset = slice_of(values, 16, 12, 1)
    dataset.PixelData = dirty.astype("<u2").tobytes()
    dataset.HighBit = 14
    np.testing.assert_array_equal(read_pixels(put(tmp_path, dataset), 1), values)


@pytest.mark.parametrize("high", [10, 16])
def test_a_high_bit_that_cannot_be_is_refused(tmp_path, high):
    dataset = slice_of(noisy(12, 0), 16, 12, 0)
    dataset.HighBit = high
    with pytest.raises(UnreadableObjectError, match=f"HighBit {high}"):
        read_pixels(put(tmp_path, dataset), 1)


def test_an_odd_number_of_bytes_is_padded_and_that_is_fine(tmp_path):
    values = noisy(8, 0, (33, 41))
    dataset = slice_of(values, 8, 8, 0)
    dataset.PixelData += b"\0" * 129
    np.testing.assert_array_equal(read_pixels(put(tmp_path, dataset), 1), values)


def test_twice_as_many_bytes_as_stated_are_refused(tmp_path):
    dataset = slice_of(noisy(12, 0), 16, 12, 0)
    dataset.PixelData *= 2
    with pytest.raises(UnreadableObjectError, match="5412 bytes; the header states"):
        read_pixels(put(tmp_path, dataset), 1)


@pytest.mark.parametrize("attribute", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_that_is_no_number_is_refused(tmp_path, attribute):
    dataset = mr_slice(RescaleSlope="2", RescaleIntercept="0")
    content = dicom_objects.encoded(dataset)
    tag = struct.pack("<HH", 0x28, 0x1053 if attribute == "RescaleSlope" else 0x1052)
    at = content.index(tag + b"DS") + 8
    path = tmp_path / "one.dcm"
    path.write_bytes(content[:at] + b"x" + content[at + 1 :])
    with pytest.raises(UnreadableObjectError, match=f"{attribute} is not a number"):
        read_pixels(path, 1)


def test_a_modality_table_is_applied(tmp_path):
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (np.arange(256)[::-1] * 3).tolist()
    table.ModalityLUTType = "US"
    dataset = slice_of(noisy(8, 0), 16, 8, 0)
    dataset.ModalityLUTSequence = [table]
    dataset["ModalityLUTSequence"].value[0]["LUTDescriptor"].VR = "US"
    dataset["ModalityLUTSequence"].value[0]["LUTData"].VR = "US"
    stored = np.frombuffer(dataset.PixelData, "<u2").reshape(33, 41)
    found = read_pixels(put(tmp_path, dataset), 1)
    np.testing.assert_array_equal(found, (255.0 - stored) * 3)


def enhanced(stack: np.ndarray, **attributes: object) -> Dataset:
    """An enhanced object of frames (n, rows, columns), each with a slope of its own."""
    dataset = mr_slice(image=stack[0].astype("<u2"), **attributes)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(stack)
    dataset.PixelData = stack.astype("<u2").tobytes()
    frames = []
    for n in range(len(stack)):
        scale, place, group = Dataset(), Dataset(), Dataset()
        scale.RescaleSlope, scale.RescaleIntercept = str(n + 1), "-1"
        place.ImagePositionPatient = [0.0, 0.0, float(n)]
        group.PixelValueTransformationSequence = [scale]
        group.PlanePositionSequence = [place]
        frames.append(group)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


STACK = NOISE.integers(0, 4096, (5, 40, 48))
EVERY_SYNTAX = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    JPEG2000Lossless,
]


def coded(stack: np.ndarray, dataset: Dataset, syntax: str) -> list[bytes]:
    if syntax == JPEG2000Lossless:
        return [encode_array(one.astype("u2"), bits_stored=12) for one in stack]
    encoder = get_encoder(syntax)
    return [
        encoder.encode(
            one.astype("<u2"),
            rows=one.shape[0],
            columns=one.shape[1],
            samples_per_pixel=1,
            bits_allocated=16,
            bits_stored=12,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
            number_of_frames=1,
        )
        for one in stack
    ]


@pytest.mark.parametrize("syntax", EVERY_SYNTAX)
@pytest.mark.parametrize("frame", [1, 3, 5])
def test_a_frame_is_rescaled_by_its_own_slope(tmp_path, syntax, frame):
    dataset = enhanced(STACK)
    if syntax.is_compressed:
        compressed(dataset, coded(STACK, dataset, syntax), syntax)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    found = read_pixels(put(tmp_path, dataset), frame)
    np.testing.assert_array_equal(found, STACK[frame - 1] * frame - 1.0)


def test_a_frame_may_lie_in_several_fragments(tmp_path):
    dataset = enhanced(STACK)
    code = coded(STACK, dataset, JPEG2000Lossless)
    for has_table in (True, False):
        compressed(
            dataset, code, JPEG2000Lossless, fragments_per_frame=3, has_bot=has_table
        )
        found = read_pixels(put(tmp_path, dataset), 4)
        np.testing.assert_array_equal(found, STACK[3] * 4 - 1.0)


def test_an_extended_offset_table_is_read(tmp_path):
    dataset = enhanced(STACK)
    code = coded(STACK, dataset, RLELossless)
    compressed(dataset, code, RLELossless)
    values, offsets, lengths = encapsulate_extended(code)
    dataset.PixelData = values
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    found = read_pixels(put(tmp_path, dataset), 2)
    np.testing.assert_array_equal(found, STACK[1] * 2 - 1.0)


def test_a_table_that_lies_does_not_give_another_frame(tmp_path):
    dataset = enhanced(STACK)
    code = coded(STACK, dataset, RLELossless)
    compressed(dataset, code, RLELossless)
    honest = dataset.PixelData
    table = struct.unpack_from("<5I", honest, 8)
    lying = struct.pack("<5I", table[0], *reversed(table[1:]))
    dataset.PixelData = honest[:8] + lying + honest[28:]
    found = read_pixels(put(tmp_path, dataset), 2)
    np.testing.assert_array_equal(found, STACK[1] * 2 - 1.0)


def test_fragments_that_cannot_be_shared_out_are_refused(tmp_path):
    dataset = enhanced(STACK)
    code = coded(STACK, dataset, RLELossless)
    compressed(dataset, code[:3], RLELossless)
    with pytest.raises(UnreadableObjectError, match="3 fragments cannot be shared"):
        read_pixels(put(tmp_path, dataset), 1)


def test_only_the_wanted_frame_is_decoded(tmp_path):
    dataset = enhanced(STACK)
    code = coded(STACK, dataset, JPEG2000Lossless)
    damaged = [code[0], *(bytes(one[:90]) for one in code[1:4]), code[4]]
    path = put(tmp_path, compressed(dataset, damaged, JPEG2000Lossless))
    np.testing.assert_array_equal(read_pixels(path, 5), STACK[4] * 5 - 1.0)
    with pytest.raises(UnreadableObjectError, match="cut off"):
        read_pixels(path, 2)


COMMANDS = {
    JPEGLosslessSV1: ("dcmcjpeg", "+e1"),
    JPEGLSLossless: ("dcmcjpls",),
    RLELossless: ("dcmcrle",),
}


def one_frame(folder: Path, syntax: str, shape=(64, 64)) -> tuple[Dataset, bytes]:
    """A slice and its compressed frame."""
    values = noisy(12, 0, shape)
    dataset = slice_of(values, 16, 12, 0)
    if syntax == JPEG2000Lossless:
        return dataset, encode_array(values.astype("u2"), bits_stored=12)
    source = dcmread(by_tool(folder, dataset, *COMMANDS[syntax]))
    return dataset, next(generate_frames(source.PixelData, number_of_frames=1))


@pytest.mark.parametrize("syntax", [*COMMANDS, JPEG2000Lossless])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.995])
@pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["open", "closed"])
def test_a_truncated_frame_is_a_reason_not_padded_pixels(tmp_path, syntax, share, end):
    dataset, code = one_frame(tmp_path, syntax)
    cut = code[: int(len(code) * share)] + end
    path = put(tmp_path, compressed(dataset, [cut], syntax))
    with pytest.raises(UnreadableObjectError):
        read_pixels(path, 1)


def test_a_decoders_other_words_on_standard_error_are_kept(tmp_path, capfd):
    path = by_tool(tmp_path, slice_of(noisy(12, 0), 16, 12, 0), "dcmcjpeg", "+e1")
    read_pixels(path, 1)
    sys.stderr.write("spoken\n")
    assert "spoken" in capfd.readouterr().err


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless])
def test_a_frame_of_another_size_than_stated_is_refused(tmp_path, syntax):
    _, code = one_frame(tmp_path, syntax)
    dataset, _ = one_frame(tmp_path, syntax, (32, 128))
    path = put(tmp_path, compressed(dataset, [code], syntax))
    with pytest.raises(UnreadableObjectError, match="frame is 64 x 64, the header"):
        read_pixels(path, 1)


def test_a_frame_that_claims_gigabytes_is_refused_before_a_decoder_sees_it(tmp_path):
    dataset, code = one_frame(tmp_path, JPEG2000Lossless)
    at = code.index(b"\xff\x51") + 6
    huge = code[:at] + struct.pack(">II", 1 << 16, 1 << 16) + code[at + 8 :]
    path = put(tmp_path, compressed(dataset, [huge], JPEG2000Lossless))
    with pytest.raises(UnreadableObjectError, match="cut into 1048576 tiles"):
        read_pixels(path, 1)


def test_millions_of_precincts_are_refused(tmp_path):
    code = encode_array(np.zeros((2048, 2048), np.uint16))
    at = code.index(b"\xff\x52")
    (length,) = struct.unpack_from(">H", code, at + 2)
    levels = code[at + 9]
    cut = (
        code[: at + 2]
        + struct.pack(">HB", length + levels + 1, code[at + 4] | 1)
        + code[at + 5 : at + 2 + length]
        + bytes([0x11] * (levels + 1))
        + code[at + 2 + length :]
    )
    dataset = slice_of(np.zeros((2048, 2048)), 16, 16, 0)
    path = put(tmp_path, compressed(dataset, [cut], JPEG2000Lossless))
    with pytest.raises(UnreadableObjectError, match="precincts"):
        read_pixels(path, 1)


IN_A_SMALL_HOUSE = """
import resource, sys
from pathlib import Path
from dicom_node.errors import UnreadableObjectError
from dicom_node.pixels import read_pixels
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_pixels(Path(sys.argv[1]), 1)
except UnreadableObjectError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_run_length_bomb_neither_fills_memory_nor_ends_the_process(tmp_path):
    segment = b"\x81\x05" * (12 << 20)  # 24 MB that unpack to 1.5 GB, twice
    head = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
    dataset = mr_slice(Rows=1024, Columns=1024)
    path = put(tmp_path, compressed(dataset, [head + segment * 2], RLELossless))
    done = subprocess.run(
        [sys.executable, "-c", IN_A_SMALL_HOUSE, path],
        capture_output=True,
        text=True,
        check=True,
    )
    reason, kilobytes = done.stdout.splitlines()
    assert "cannot be read" in reason
    assert int(kilobytes) < 1 << 20


def test_a_loss_under_a_lossless_name_is_refused(tmp_path):
    values = noisy(12, 0, (64, 64))
    code = encode_array(values.astype("u2"), bits_stored=12, compression_ratios=[8])
    dataset = slice_of(values, 16, 12, 0)
    path = put(tmp_path, compressed(dataset, [code], JPEG2000Lossless))
    with pytest.raises(UnreadableObjectError, match="compressed with loss"):
        read_pixels(path, 1)


def test_big_endian_pixels_are_read(tmp_path):
    values = noisy(12, 1)
    dataset = slice_of(values, 16, 12, 1)
    dataset.PixelData = values.astype(">i2").tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = BytesIO()
    dataset.save_as(
        buffer, implicit_vr=False, little_endian=False, enforce_file_format=True
    )
    path = tmp_path / "big.dcm"
    path.write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_pixels(path, 1), values)


def test_each_frame_has_its_own_place_however_many_there_are(tmp_path):
    path = put(tmp_path, enhanced(NOISE.integers(0, 9, (300, 4, 4))))
    stored = StoredInstance("1.2.3", "1.2.4", EnhancedMRImageStorage, path, "")
    images = read_study([stored]).images
    assert [one.position[2] for one in images] == list(range(300))
    assert text(read_header(path), "SeriesDescription") == images[299].description
