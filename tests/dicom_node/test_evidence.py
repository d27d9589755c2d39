import pytest
from pydicom.sequence import Sequence

from dicom_node.report.evidence import as_evidence, has_geometry
from tests.dicom_objects import Dataset, encoded, mr_slice, reread

NAMES = {
    "ISO 2022 IR 87": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "ISO 2022 IR 149": "Hong^Gildong=洪^吉洞=홍^길동",
}


@pytest.mark.parametrize(
    "keyword",
    ["StudyID", "AccessionNumber", "PatientBirthDate", "StudyTime", "PatientSex"],
)
def test_what_is_missing_is_there_but_empty(keyword):
    evidence = as_evidence(mr_slice(**{keyword: None}))
    assert keyword in evidence
    assert not evidence[keyword].value


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientSex", "W", "O"),
        ("PatientSex", "f", "O"),
        ("PatientBirthDate", "00000000", ""),
        ("PatientBirthDate", "1970.02.03", ""),
        ("StudyTime", "10:00:00", ""),
        ("PatientAge", "45", ""),
        ("StudyTime", "101500.25", "101500.25"),
        ("AccessionNumber", "A" * 20, "A" * 20),
    ],
)
def test_values_that_break_the_rules_are_mended(keyword, value, expected):
    evidence = as_evidence(mr_slice(**{keyword: value}))
    assert (evidence[keyword].value or "") == expected


@pytest.mark.parametrize("character_set", NAMES)
def test_names_in_every_alphabet_become_unicode(character_set):
    source = mr_slice(SpecificCharacterSet=["", character_set])
    source.PatientName = NAMES[character_set]
    evidence = as_evidence(reread(source))
    assert evidence.SpecificCharacterSet == "ISO_IR 192"
    assert str(evidence.PatientName) == NAMES[character_set]
    assert str(reread_bare(evidence).PatientName) == NAMES[character_set]


def reread_bare(evidence: Dataset) -> Dataset:
    evidence.file_meta = mr_slice().file_meta
    return reread(evidence)


def test_text_inside_items_is_decoded_too():
    item = Dataset()
    item.SpecificCharacterSet = "ISO_IR 100"
    item.CodeValue, item.CodingSchemeDesignator = "IMRM16", "L"
    item.CodeMeaning = "RM Mamária"
    source = mr_slice(ProcedureCodeSequence=Sequence([item]))
    (code,) = as_evidence(reread(source)).ProcedureCodeSequence
    assert code.CodeMeaning == "RM Mamária"
    assert "SpecificCharacterSet" not in code


def test_half_a_code_is_left_out():
    item = Dataset()
    item.CodeValue, item.CodeMeaning = "IMRM16", "Breast"
    source = mr_slice(ProcedureCodeSequence=Sequence([item]))
    assert "ProcedureCodeSequence" not in as_evidence(source)


def test_private_elements_overlays_and_pixels_are_left_out():
    source = mr_slice()
    source.add_new(0x00290010, "LO", "PRIVATE CREATOR")
    source.add_new(0x60000022, "LO", "overlay")
    evidence = as_evidence(source)
    tags = [element.tag for element in evidence]
    assert all(not tag.is_private and tag.group < 0x5000 for tag in tags)
    assert "PixelData" in source


def test_the_source_is_left_as_it_was():
    source = mr_slice(PatientSex="W", StudyID=None)
    before = encoded(source)
    as_evidence(source)
    assert encoded(source) == before


def test_the_frame_of_an_enhanced_object_looks_like_an_image_of_its_own():
    def group(keyword, **attributes):
        outer, inner = Dataset(), Dataset()
        for name, value in attributes.items():
            setattr(inner, name, value)
        setattr(outer, keyword, Sequence([inner]))
        return outer

    source = mr_slice(NumberOfFrames=2, PixelSpacing=None, ImagePositionPatient=None)
    source.SharedFunctionalGroupsSequence = [
        group("PixelMeasuresSequence", PixelSpacing=[0.8, 0.9], SliceThickness=3)
    ]
    source.PerFrameFunctionalGroupsSequence = [
        group("PlanePositionSequence", ImagePositionPatient=[0, 0, z]) for z in (1, 2)
    ]
    assert not has_geometry(source)
    evidence = as_evidence(source, 2)
    assert has_geometry(evidence)
    assert list(evidence.ImagePositionPatient) == [0, 0, 2]
    assert list(evidence.PixelSpacing) == [0.8, 0.9]


def test_a_source_that_hides_how_it_was_made_anonymous_says_so():
    evidence = as_evidence(mr_slice(PatientIdentityRemoved="YES"))
    assert evidence.DeidentificationMethod == "not stated by the source"
