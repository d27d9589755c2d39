"""Headers as real scanners and converters write them: what we write stays valid."""

import logging
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence

from dicom_node.errors import InvalidDocumentError
from dicom_node.findings import (
    Carrier,
    Laterality,
    Roi,
    Selection,
    Stage,
)
from dicom_node.images import read_header, read_pixels
from dicom_node.report.device import Output
from dicom_node.report.documents import Material, write
from dicom_node.report.reference import LISTS
from dicom_node.silence import silence
from dicom_node.study import SopInstanceUid
from tests import dicom_objects, report_cases
from tests.dicom_objects import BOX, mr_slice
from tests.report_cases import DEVICE, every_case, ran
from tests.validators import dciodvfy, dcmpschk, written

EVERYTHING = replace(DEVICE, outputs=tuple(Output))


def item(**attributes):
    made = Dataset()
    with silence():
        for keyword, value in attributes.items():
            setattr(made, keyword, value)
    return made


def code(**attributes):
    values = {"CodeValue": "1", "CodingSchemeDesignator": "L", "CodeMeaning": "one"}
    return item(**{**values, **attributes})


DEFECTS = {
    "no study id": {"StudyID": None},
    "no accession number": {"AccessionNumber": None},
    "no birth date": {"PatientBirthDate": None},
    "no study time": {"StudyTime": None},
    "no study date": {"StudyDate": None},
    "no referring physician": {"ReferringPhysicianName": None},
    "no sex": {"PatientSex": None},
    "an impossible birth date": {"PatientBirthDate": "00000000"},
    "a birth date with dots": {"PatientBirthDate": "1970.02.03"},
    "a time with colons": {"StudyTime": "10:00:00"},
    "a time of 24 hours": {"StudyTime": "240000"},
    "a date that is no day": {"StudyDate": "20260231"},
    "a sex that is a word": {"PatientSex": "W"},
    "a sex in small letters": {"PatientSex": "f"},
    "an age without unit": {"PatientAge": "56"},
    "a name of one word": {"PatientName": "MARKER"},
    "a name in two languages": {"PatientName": "Marker^One=Marker^Two=Marker^Three"},
    "an empty name": {"PatientName": ""},
    "no name at all": {"PatientName": None},
    "no patient id": {"PatientID": None},
    "an empty patient id": {"PatientID": ""},
    "no character set": {"SpecificCharacterSet": None},
    "an unknown character set": {"SpecificCharacterSet": "ISO_IR 999"},
    "no manufacturer": {"Manufacturer": None},
    "no model name": {"ManufacturerModelName": None},
    "a long station name": {"StationName": "S" * 40},
    "a long institution": {"InstitutionName": "I" * 100},
    "a long study description": {"StudyDescription": "D" * 100},
    "many software versions": {"SoftwareVersions": ["1", "2", "V" * 80]},
    "no spacing": {"PixelSpacing": None},
    "a spacing of zero": {"PixelSpacing": [0, 0]},
    "one spacing for two": {"PixelSpacing": 0.7},
    "pixels that are not square": {"PixelSpacing": [0.7, 1.4]},
    "no square pixels and no place": {
        "PixelSpacing": [0.7, 1.4],
        "ImagePositionPatient": None,
    },
    "no position": {"ImagePositionPatient": None},
    "half a position": {"ImagePositionPatient": [1, 2]},
    "no orientation": {"ImageOrientationPatient": None},
    "no thickness": {"SliceThickness": None},
    "an empty thickness": {"SliceThickness": ""},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "a frame of reference that is no uid": {"FrameOfReferenceUID": "1.2.x"},
    "a slope without intercept": {"RescaleSlope": 2},
    "a rescale of its own": {
        "RescaleSlope": 2,
        "RescaleIntercept": -5,
        "RescaleType": "normalized",
    },
    "an empty window": {"WindowCenter": 0, "WindowWidth": 0},
    "half a window": {"WindowCenter": 100},
    "white is low": {"PhotometricInterpretation": "MONOCHROME1"},
    "anonymous without method": {"PatientIdentityRemoved": "YES"},
    "an empty procedure code": {"ProcedureCodeSequence": Sequence([Dataset()])},
    "half a procedure code": {
        "ProcedureCodeSequence": Sequence([code(CodingSchemeDesignator="")])
    },
    "a long code meaning": {
        "ProcedureCodeSequence": Sequence([code(CodeMeaning="M" * 90)])
    },
    "a study reference without uids": {
        "ReferencedStudySequence": Sequence([Dataset()])
    },
    "a patient reference without uids": {
        "ReferencedPatientSequence": Sequence([Dataset()])
    },
    "an empty other id": {"OtherPatientIDsSequence": Sequence([Dataset()])},
    "an issuer": {"IssuerOfPatientID": "HOSPITAL"},
    "a time zone that is none": {"TimezoneOffsetFromUTC": "CET"},
    "a patient comment": {"PatientComments": "call her at home"},
}


def selection_on(path, header):
    roi = Roi(
        SopInstanceUid(str(header.SOPInstanceUID)),
        1,
        *BOX,
        carrier=Carrier.GSPS,
        carrier_sop_instance_uid=SopInstanceUid("1.2.3"),
        author="Reader^Rita",
    )
    return Selection(
        roi=roi,
        sop_instance_uid=roi.sop_instance_uid,
        frame=1,
        path=path,
        phase="as marked",
        laterality=Laterality.LEFT,
        laterality_derived=False,
        area_mm2=480.0,
        candidates=1,
        why=("1 rectangle.",),
    )


def documents_of(image, folder, device=EVERYTHING):
    """Everything that a site can have written of an image."""
    (stored,) = dicom_objects.store(folder, [image])
    header = read_header(stored.path)
    pixels = read_pixels(stored.path, 1)
    selection = selection_on(stored.path, header)
    heat = report_cases.heat(pixels.shape, BOX)
    case = replace(
        every_case(selection)["done"],
        sln=ran(Stage.SLN, 0.83, heat),
        nsln=ran(Stage.NSLN, 0.31, heat),
    )
    return write(case, Material(header, pixels, None, None), device)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defective_header_gives_valid_documents_and_says_nothing_of_the_patient(
    tmp_path, name, caplog, capfd, recwarn
):
    image = mr_slice(**DEFECTS[name])
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    recwarn.clear()
    documents = documents_of(image, tmp_path)
    said = caplog.text + "".join(capfd.readouterr())
    assert not recwarn.list
    assert not any(one in said for one in ("MARKER", "Marker", "19700203", "1970.02"))
    assert [one.kind for one in documents][:4] == ["SR", "SC", "SC", "GSPS"]
    for document in (documents[0], documents[1], *documents[3:5]):
        path = written(document, tmp_path)
        assert dciodvfy(path, document.kind) == [], document.kind
        if document.kind == "GSPS" and image.get("PatientName"):
            assert dcmpschk(path) == []  # it does not know that a name may be empty


def test_a_map_needs_a_place_in_the_patient(tmp_path):
    whole = documents_of(mr_slice(), tmp_path)
    placeless = documents_of(mr_slice(ImagePositionPatient=None), tmp_path)
    assert [one.kind for one in whole].count("PM") == 2
    assert [one.kind for one in placeless].count("PM") == 0


def test_an_image_of_a_private_class_is_refused_with_a_reason(tmp_path):
    image = mr_slice()
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.3.4.5"
    with pytest.raises(InvalidDocumentError, match="cannot be written"):
        documents_of(image, tmp_path)


ALPHABETS = {
    "Latin 1": ("ISO_IR 100", "Müller^Jörg"),
    "Latin 2": ("ISO_IR 101", "Dvořák^Šárka"),
    "Cyrillic": ("ISO_IR 144", "Иванова^Анна"),
    "Arabic": ("ISO_IR 127", "قباني^لنزار"),
    "Greek": ("ISO_IR 126", "Διονυσιος^Θ"),
    "Hebrew": ("ISO_IR 138", "שרון^דבורה"),
    "Thai": ("ISO_IR 166", "นามสกุล^ชื่อ"),
    "Japanese half-width": ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    "Japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Japanese, half-width first": (
        ["ISO 2022 IR 13", "ISO 2022 IR 87"],
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "Japanese, supplementary": (["", "ISO 2022 IR 159"], "Test^A=丂丄"),
    "Korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "Chinese, GB18030": ("GB18030", "Wang^XiaoDong=王^小东"),
    "Chinese, GBK": ("GBK", "Wang^XiaoDong=王^小东"),
    "UTF-8": ("ISO_IR 192", "Wang^XiaoDong=王^小東=Ελ^Ив"),
}


@pytest.mark.parametrize("alphabet", ALPHABETS)
def test_a_name_in_any_alphabet_arrives_as_it_was(tmp_path, alphabet):
    character_set, name = ALPHABETS[alphabet]
    image = mr_slice(SpecificCharacterSet=character_set, PatientName=name)
    sent = dicom_objects.reread(image)
    assert str(sent.PatientName) == name, "the test cannot write this name"
    documents = documents_of(image, tmp_path)
    assert {one.kind for one in documents} == {"SR", "SC", "GSPS", "PM"}
    for document in documents:
        received = dcmread(BytesIO(document.content))
        assert received.SpecificCharacterSet == "ISO_IR 192"
        assert str(received.PatientName) == name
    assert dciodvfy(written(documents[0], tmp_path), "SR") == []


def test_a_name_in_gb2312_arrives_as_it_was(tmp_path):
    # pydicom writes no escapes of ISO 2022 IR 58, and leaves them in when it reads.
    parts = (b"Zhang^XiaoDong=", b"\x1b$)A", "张".encode("gb2312"), b"^\x1b$)A")
    encoded = b"".join((*parts, "小东".encode("gb2312")))
    image = mr_slice(
        SpecificCharacterSet=["", "ISO 2022 IR 58"], PatientName="@" * len(encoded)
    )
    content = dicom_objects.encoded(image).replace(b"@" * len(encoded), encoded)
    sent = dcmread(BytesIO(content))
    for document in documents_of(sent, tmp_path):
        received = dcmread(BytesIO(document.content))
        assert str(received.PatientName) == "Zhang^XiaoDong=张^小东"


def on_frame(path, frame):
    """Everything that a site can have written of one frame of a file."""
    header, pixels = read_header(path), read_pixels(path, frame)
    rows, columns = pixels.shape
    box = (columns * 0.3, rows * 0.3, columns * 0.6, rows * 0.6)
    selection = selection_on(path, header)
    selection = replace(
        selection,
        frame=frame,
        roi=replace(
            selection.roi, **dict(zip(("x0", "y0", "x1", "y1"), box, strict=True))
        ),
    )
    stage = ran(Stage.SLN, 0.83, report_cases.heat(pixels.shape, box))
    case = replace(every_case(selection)["pending"], sln=stage)
    return header, write(case, Material(header, pixels, None, None), EVERYTHING)


@pytest.mark.parametrize(
    "name",
    [
        "mr-multivendor/dcmqa-enh/philips-achieva-dstream-enhanced-64f.dcm",
        "mr-multivendor/dcmqa-enh/siemens-vida-xa10-enhanced.dcm",
        "mr-transfer-syntaxes/pydicom/emri_small.dcm",
    ],
)
def test_every_document_names_the_frame_of_an_enhanced_image(real_data, tmp_path, name):
    header, documents = on_frame(real_data / name, 2)
    for document in documents:
        dataset = dcmread(BytesIO(document.content))
        assert frames_named(dataset, header.SOPInstanceUID) == {2}, document.kind
        path = written(document, tmp_path, document.kind)
        assert dciodvfy(path, document.kind) == []


def test_headers_of_many_vendors_give_valid_documents(real_data, tmp_path):
    folders = [one for one in (real_data / "mr-multivendor").iterdir() if one.is_dir()]
    assert len(folders) == 11
    for folder in folders:
        _, documents = on_frame(min(folder.iterdir()), 1)
        for document in documents:
            path = written(document, tmp_path, document.kind)
            assert dciodvfy(path, document.kind) == [], (folder.name, document.kind)


def frames_named(dataset, uid):
    """The frames that references to an image name, where they must name one."""
    found = set()
    for element in dataset:
        if element.VR == "SQ" and element.keyword not in LISTS:
            for one in element.value:
                if one.get("ReferencedSOPInstanceUID") == uid:
                    found.add(int(one.get("ReferencedFrameNumber", 0)))
                found |= frames_named(one, uid)
    return found


def test_maps_of_many_sizes_are_written_whole(tmp_path):
    for rows, columns in ((64, 64), (65, 97), (512, 256)):
        image = mr_slice(image=dicom_objects.pixels(rows, columns))
        for document in documents_of(image, tmp_path):
            if document.kind == "SC":
                shown = dcmread(BytesIO(document.content)).pixel_array
                assert shown.shape == (rows, columns, 3)
            if document.kind == "PM":
                heat = np.frombuffer(
                    dcmread(BytesIO(document.content)).FloatPixelData, np.float32
                )
                assert heat.size == rows * columns
                assert np.isnan(heat[0])
