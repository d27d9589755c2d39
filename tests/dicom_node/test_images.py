import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    RLELossless,
)

from dicom_node import images
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Laterality
from dicom_node.images import read_header, read_pixels, read_study
from dicom_node.study import StoredInstance
from tests import dicom_objects
from tests.dicom_objects import mr_slice

SYNTAXES = "mr-transfer-syntaxes/pydicom"
COMPRESSED = {
    "MR_small.dcm": (
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_implicit.dcm",
    ),
    "emri_small.dcm": (
        "emri_small_RLE.dcm",
        "emri_small_jpeg_2k_lossless.dcm",
        "emri_small_jpeg_ls_lossless.dcm",
    ),
}
SCANNED_TWICE = (
    "siemens-trio-rle",
    "siemens-trio-jpegls",
    "siemens-trio-jpeg-lossless",
    "siemens-trio-jpeg2000-lossless",
)


def write(folder: Path, dataset) -> Path:
    path = folder / "one.dcm"
    path.write_bytes(dicom_objects.encoded(dataset))
    return path


def as_mr(path: Path, sop_class_uid: str = "1.2.840.10008.5.1.4.1.1.4"):
    return StoredInstance("1.2.3", "1.2.4", sop_class_uid, path, "")


def test_pixels_are_read_after_the_modality_lut(tmp_path):
    path = write(tmp_path, mr_slice(RescaleSlope="2", RescaleIntercept="-5"))
    values = read_pixels(path, 1)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, dicom_objects.pixels() * 2.0 - 5.0)


def test_an_inverted_image_is_turned_bright_side_up(tmp_path):
    dataset = mr_slice(PhotometricInterpretation="MONOCHROME1")
    values = read_pixels(write(tmp_path, dataset), 1)
    stored = dicom_objects.pixels().astype(np.float32)
    np.testing.assert_array_equal(values, stored.max() + stored.min() - stored)


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"Rows": 65535, "Columns": 65535}, "Rows is 65535"),
        ({"NumberOfFrames": 20000}, "NumberOfFrames is 20000"),
        ({"Rows": 4096, "Columns": 4096, "NumberOfFrames": 200}, "4096 MB"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "grey-scale"),
        ({"BitsAllocated": 32}, "BitsAllocated is 32"),
        ({"Rows": 97}, "cut off: 21504 bytes of 21728"),
        ({"PixelData": None}, "holds no pixel data"),
    ],
)
def test_what_a_decoder_should_not_see_is_refused(tmp_path, attributes, named):
    path = write(tmp_path, mr_slice(**attributes))
    with pytest.raises(UnreadableObjectError, match=named):
        read_pixels(path, 1)


def test_a_bomb_is_refused_before_memory_is_taken(tmp_path):
    dataset = mr_slice(Rows=60000, Columns=60000)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = b"\xfe\xff\x00\xe0\x00\x00\x00\x00" + b"\0" * 62
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    path = write(tmp_path, dataset)
    tracemalloc.start()
    with pytest.raises(UnreadableObjectError, match="Rows is 60000"):
        read_pixels(path, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_a_deflated_file_is_refused(tmp_path):
    dataset = mr_slice()
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(UnreadableObjectError, match="deflated"):
        read_header(write(tmp_path, dataset))


def test_what_cannot_be_read_is_told_without_the_value(tmp_path, caplog):
    dataset = mr_slice(PatientName="MARKER^M")
    path = tmp_path / "one.dcm"
    path.write_bytes(dicom_objects.encoded(dataset).replace(b"DICM", b"MCID", 1))
    with pytest.raises(UnreadableObjectError) as refused:
        read_header(path)
    assert refused.value.__cause__ is None
    assert "MARKER" not in f"{refused.value} {caplog.text}"


def test_a_frame_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UnreadableObjectError, match="no frame 2"):
        read_pixels(write(tmp_path, mr_slice()), 2)


def test_a_study_is_sorted_into_images_and_documents(tmp_path):
    image = mr_slice(ImageLaterality="L")
    state = dicom_objects.gsps_rectangle([image])
    objects = read_study(dicom_objects.store(tmp_path, [image, state]))
    assert [one.sop_instance_uid for one in objects.images] == [image.SOPInstanceUID]
    assert [one.SOPInstanceUID for one in objects.documents] == [state.SOPInstanceUID]
    assert objects.unreadable == ()
    assert objects.images[0].laterality is Laterality.LEFT
    assert objects.images[0].spacing == (1.0, 1.0)


def test_objects_of_ours_are_left_out_whatever_the_installation(tmp_path):
    image = mr_slice()
    named = dicom_objects.sr_rectangle(image)
    named.ManufacturerModelName = "Sentinode"
    coded = dicom_objects.sr_rectangle(image)
    scheme = dicom_objects.Dataset()
    scheme.CodingSchemeDesignator = "99SENTINODE"
    coded.CodingSchemeIdentificationSequence = [scheme]
    objects = read_study(dicom_objects.store(tmp_path, [image, named, coded]))
    assert objects.documents == ()


def test_one_damaged_file_does_not_hide_the_others(tmp_path):
    stored = dicom_objects.store(tmp_path, dicom_objects.dynamic_series(1))
    stored[1].path.write_bytes(b"not DICOM")
    objects = read_study(stored)
    assert len(objects.images) == 2
    (said,) = objects.unreadable
    assert said.startswith(f"object {stored[1].sop_instance_uid}: ")
    assert said.endswith("the file cannot be read (InvalidDicomError)")


def test_a_value_that_is_no_number_is_as_good_as_absent(tmp_path):
    dataset = mr_slice(SeriesNumber=None)
    path = tmp_path / "one.dcm"
    content = dicom_objects.encoded(dataset)
    assert content.count(b"4.3 ") == 1
    path.write_bytes(content.replace(b"4.3 ", b"x.y "))
    (image,) = read_study([as_mr(path)]).images
    assert image.repetition_time is None
    assert image.series_number is None


@pytest.mark.parametrize("plain", COMPRESSED)
def test_every_lossless_syntax_gives_the_same_pixels(real_data, plain):
    expected = read_pixels(real_data / SYNTAXES / plain, 1)
    for name in COMPRESSED[plain]:
        path = real_data / SYNTAXES / name
        np.testing.assert_array_equal(read_pixels(path, 1), expected, err_msg=name)


@pytest.mark.parametrize("folder", SCANNED_TWICE)
def test_compressed_scans_of_a_vendor_decode(real_data, folder):
    plain = read_pixels(
        real_data / "mr-multivendor/siemens-trio-rle/IM-0001-0001-0001.dcm", 1
    )
    path = real_data / "mr-multivendor" / folder / "IM-0001-0001-0001.dcm"
    np.testing.assert_array_equal(read_pixels(path, 1), plain)


def test_an_enhanced_object_gives_one_image_for_each_frame(real_data):
    path = (
        real_data / "mr-multivendor/dcmqa-enh/philips-achieva-dstream-enhanced-64f.dcm"
    )
    images = read_study([as_mr(path, EnhancedMRImageStorage)]).images
    assert [image.frame for image in images] == list(range(1, 65))
    assert images[0].spacing == (4.0, 4.0)
    assert images[0].position is not None
    assert len({image.position for image in images}) > 1
    stored = dcmread(path).pixel_array[40]
    assert np.corrcoef(read_pixels(path, 41).ravel(), stored.ravel())[0, 1] > 0.999


def groups(**sequences) -> Dataset:
    """Functional groups, each of one item."""
    found = Dataset()
    for keyword, attributes in sequences.items():
        item = Dataset()
        for name, value in attributes.items():
            setattr(item, name, value)
        setattr(found, keyword, [item])
    return found


def test_frames_that_say_nothing_of_their_own_are_described_once(tmp_path, monkeypatch):
    """A number in a small file claims thousands of them."""
    claiming = mr_slice(SOPClassUID=EnhancedMRImageStorage, NumberOfFrames=9000)
    claiming.SharedFunctionalGroupsSequence = [
        groups(PixelMeasuresSequence={"PixelSpacing": [0.5, 0.5]})
    ]
    claiming.PerFrameFunctionalGroupsSequence = [
        groups(FrameContentSequence={"FrameAcquisitionNumber": n}) for n in (1, 2)
    ]
    path = write(tmp_path, claiming)
    described = []
    describe = images._image  # noqa: SLF001 - what takes the time

    def counted(*arguments):
        described.append(arguments)
        return describe(*arguments)

    monkeypatch.setattr(images, "_image", counted)
    found = read_study([as_mr(path, EnhancedMRImageStorage)]).images

    assert len(described) == 3
    assert [one.frame for one in found] == list(range(1, 9001))
    assert [one.acquisition_number for one in found[:2]] == [1, 2]
    for frame in (1, 2, 3, 4, 9000):
        assert found[frame - 1] == images.read_frame(path, frame)


def test_a_converted_object_keeps_what_its_single_frames_said(tmp_path):
    unsaid = dict.fromkeys(("ScanningSequence", "RepetitionTime", "EchoTime"))
    converted = mr_slice(
        SOPClassUID=LegacyConvertedEnhancedMRImageStorage,
        NumberOfFrames=2,
        SeriesNumber=9,
        **unsaid,
    )
    converted.PixelData = converted.PixelData * 2
    converted.SharedFunctionalGroupsSequence = [
        groups(
            UnassignedSharedConvertedAttributesSequence={
                "ScanningSequence": "SE",
                "RepetitionTime": "4000",
                "EchoTime": "80",
                "SeriesNumber": 3,
            }
        )
    ]
    converted.PerFrameFunctionalGroupsSequence = [
        groups(
            UnassignedPerFrameConvertedAttributesSequence={
                "TemporalPositionIdentifier": n,
                "TriggerTime": 1000.0 * n,
                "AcquisitionNumber": 7,
            },
            FrameContentSequence={"FrameAcquisitionNumber": n},
        )
        for n in (1, 2)
    ]
    path = write(tmp_path, converted)
    first, second = read_study(
        [as_mr(path, LegacyConvertedEnhancedMRImageStorage)]
    ).images
    assert first.scanning_sequence == ("SE",)
    assert (first.repetition_time, first.echo_time) == (4000.0, 80.0)
    assert (first.temporal_position, second.temporal_position) == (1, 2)
    assert (first.trigger_time, second.trigger_time) == (1000.0, 2000.0)
    assert (first.acquisition_number, second.acquisition_number) == (1, 2)
    assert first.series_number == 9


@pytest.mark.parametrize(("written", "side"), [("L", "L"), ("r", "R"), ("B", None)])
def test_a_side_is_read_in_either_case(tmp_path, written, side):
    path = write(tmp_path, mr_slice(Laterality=written))
    (image,) = read_study([as_mr(path)]).images
    assert image.laterality == side


def test_hostile_files_end_in_a_sentence(real_data):
    files = [p for p in (real_data / "malformed").rglob("*") if p.is_file()]
    assert len(files) > 20
    for path in files:
        objects = read_study([as_mr(path)])
        assert bool(objects.images) != bool(objects.unreadable), path.name
        try:
            assert read_pixels(path, 1).ndim == 2
        except UnreadableObjectError as error:
            assert str(error)  # noqa: PT017 - either a picture or a sentence
