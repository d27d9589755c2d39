"""Each rule of the gate stops the fault that it is there for."""

import copy
import hashlib
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import ImplicitVRLittleEndian

from dicom_node.errors import InvalidDocumentError
from dicom_node.findings import Pathway, Risk, Stage, StageStatus
from dicom_node.images import read_header, read_pixels, read_study
from dicom_node.report import documents, gate, gsps, pm, sc, sr
from dicom_node.report.device import Output
from dicom_node.report.documents import Material
from dicom_node.report.evidence import as_evidence
from dicom_node.report.uids import case_uid, instance_uid
from dicom_node.roi import read_rois
from dicom_node.selection import select
from dicom_node.silence import silence
from tests import dicom_objects, report_cases
from tests.dicom_objects import gsps_rectangle, mr_slice
from tests.report_cases import DEVICE, every_case, pending, ran

SECRETS = ("Marker", "MARKER", "19700203")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One valid document of each kind, with its origin; and a report of each state."""
    image = mr_slice()
    folder = tmp_path_factory.mktemp("store")
    objects = read_study(dicom_objects.store(folder, [image]))
    (selection,) = select(objects, read_rois([gsps_rectangle([image])]))
    header, pixels = read_header(selection.path), read_pixels(selection.path, 1)
    heat = report_cases.heat(pixels.shape, selection.roi.box)
    case = replace(every_case(selection)["done"], sln=ran(Stage.SLN, 0.83, heat))
    found = {
        "SR": sr.build_sr(case, header, None, None, DEVICE),
        "SC": sc.build_sc(case, Stage.SLN, header, pixels, DEVICE),
        "GSPS": gsps.build_gsps(case, header, pixels, DEVICE),
        "PM": pm.build_pm(case, Stage.SLN, header, DEVICE),
    }
    evidence = as_evidence(header)
    origins = {
        kind: gate.Origin(
            evidence,
            case_uid(case, evidence, DEVICE.uid, kind),
            instance_uid(
                case, evidence, DEVICE.uid, kind, *([Stage.SLN] * (kind in STAGED))
            ),
        )
        for kind in found
    }
    return found, origins, (case, Material(header, pixels, None, None))


STAGED = ("SC", "PM")


def changed(document, change):
    """A document after a fault, with a digest that agrees with its bytes."""
    buffer = BytesIO()
    with silence():
        dataset = dcmread(BytesIO(document.content))
        change(dataset)
        dcmwrite(buffer, dataset, enforce_file_format=True)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return replace(document, content=content, sha256=digest)


def without(keyword):
    return lambda dataset: delattr(dataset, keyword)


def setting(keyword, value):
    return lambda dataset: setattr(dataset, keyword, value)


def items(dataset, name):
    """Every content item of a report whose concept name has this code."""
    for item in dataset.get("ContentSequence") or ():
        names = item.get("ConceptNameCodeSequence") or ()
        if any(one.get("CodeValue") == name for one in names):
            yield item
        yield from items(item, name)


def dropping(name, nth=0):
    """Take away the nth content item with this name."""

    def change(dataset):
        victim = list(items(dataset, name))[nth]
        _remove(dataset, victim)

    return change


def _remove(dataset, victim):
    children = dataset.get("ContentSequence") or ()
    kept = [child for child in children if child is not victim]
    if len(kept) < len(children):
        dataset.ContentSequence = kept
    for child in kept:
        _remove(child, victim)


def coding(name, value, meaning, nth=0, scheme=None):
    """Let the nth content item with this name say another code."""

    def change(dataset):
        code = list(items(dataset, name))[nth].ConceptCodeSequence[0]
        code.CodeValue, code.CodeMeaning = value, meaning
        code.CodingSchemeDesignator = scheme or code.CodingSchemeDesignator

    return change


def measuring(name, percent):
    def change(dataset):
        value = next(items(dataset, name)).MeasuredValueSequence[0]
        value.NumericValue, value.FloatingPointValue = percent, float(percent)

    return change


def private(dataset):
    dataset.add_new(0x00290010, "LO", "SOMEBODY")


def foreign(dataset):
    del dataset.CodingSchemeIdentificationSequence
    dataset.ManufacturerModelName = "Another"


def long_meaning(dataset):
    dataset.ConceptNameCodeSequence[0].CodeMeaning = "long" * 17


def bad_uid(dataset):
    evidence = dataset.CurrentRequestedProcedureEvidenceSequence[0]
    evidence.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.x"


def elsewhere(dataset):
    for region in items(dataset, "111030"):
        image = region.ContentSequence[0].ReferencedSOPSequence[0]
        image.ReferencedSOPInstanceUID = "1.2.3.4"


def no_use(dataset):
    group = list(items(dataset, "125007"))[1]
    _remove(dataset, next(items(group, "USE")))


def other_image(dataset):
    annotation = dataset.GraphicAnnotationSequence[0]
    annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"


def half_the_pixels(dataset):
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2]


FAULTS = {
    "no completion flag": ("SR", without("CompletionFlag"), "CompletionFlag (type 1)"),
    "an empty date": (
        "SR",
        setting("ContentDate", ""),
        "ContentDate (type 1) is empty",
    ),
    "no sex": ("SR", without("PatientSex"), "PatientSex (type 2) is missing"),
    "a wrong modality": ("SR", setting("Modality", "MR"), "Modality is not SR"),
    "identifying pixels": (
        "SC",
        setting("BurnedInAnnotation", "YES"),
        "BurnedInAnnotation is not NO",
    ),
    "half the pixels": ("SC", half_the_pixels, "PixelData does not fill"),
    "no source": ("SC", without("SourceImageSequence"), "SourceImageSequence"),
    "no side": ("SC", without("Laterality"), "Laterality"),
    "no layer": ("GSPS", without("GraphicLayerSequence"), "GraphicLayerSequence"),
    "no values": ("PM", without("FloatPixelData"), "FloatPixelData"),
    "a bad uid": ("SR", bad_uid, "SeriesInstanceUID is not a UID"),
    "an underived uid": (
        "SR",
        setting("SOPInstanceUID", "1.2.3.4"),
        "name different objects",
    ),
    "a foreign series": (
        "SC",
        setting("SeriesInstanceUID", "1.2.3.4"),
        "SeriesInstanceUID is not the one",
    ),
    "another patient": ("SR", setting("PatientID", "X"), "PatientID is not the source"),
    "another name": ("PM", setting("PatientName", "X^Y"), "PatientName is not"),
    "another study": ("GSPS", setting("StudyInstanceUID", "1.2.3"), "StudyInstanceUID"),
    "not research": (
        "SR",
        setting("ContentQualification", "PRODUCT"),
        "ContentQualification is not RESEARCH",
    ),
    "a plain description": (
        "SC",
        setting("SeriesDescription", "CAM"),
        "SeriesDescription does not begin",
    ),
    "no intended use": ("SR", no_use, "does not say that it is for research use"),
    "no summary": ("SR", dropping("SUMMARY"), "the summary does not begin"),
    "a risk without probability": (
        "SR",
        dropping("SLN-PROB"),
        "stage SLN: a risk group without probability",
    ),
    "a risk without threshold": (
        "SR",
        dropping("THRESHOLD"),
        "a risk group without threshold",
    ),
    "a risk without model": ("SR", dropping("111001"), "a risk group without model"),
    "a stage without risk": ("SR", dropping("NSLN-RISK"), "only when done"),
    "low above the threshold": (
        "SR",
        coding("SLN-RISK", "75976002", "Low risk"),
        "low risk, and yet the probability is above",
    ),
    "high below the threshold": (
        "SR",
        coding("NSLN-RISK", "15508007", "High risk"),
        "high risk, and yet the probability is below",
    ),
    "more than certain": ("SR", measuring("SLN-PROB", "183"), "outside 0 to 100 %"),
    "numbers without a stage": (
        "SR",
        coding("STAGE-STATUS", "ST-EXCL", "Excluded by sentinel lymph node result", 1),
        "stage NSLN: it is excluded, and yet it has numbers",
    ),
    "partial though done": (
        "SR",
        setting("CompletionFlag", "PARTIAL"),
        "CompletionFlag contradicts",
    ),
    "preliminary though done": (
        "SR",
        setting("PreliminaryFlag", "PRELIMINARY"),
        "PreliminaryFlag contradicts",
    ),
    "verified by nobody": (
        "SR",
        setting("VerificationFlag", "VERIFIED"),
        "VerificationFlag is not UNVERIFIED",
    ),
    "a pathway that is another": (
        "SR",
        coding("PATHWAY", "PW-AWAIT", "Sentinel node dissection awaited"),
        "the pathway is awaiting_slnd",
    ),
    "a result of pathology that is missing": (
        "SR",
        dropping("396487001"),
        "the SLND result is another",
    ),
    "a long meaning": ("SR", long_meaning, "too long"),
    "an unpublished code": (
        "SR",
        coding("USE", "CLINICAL", "Clinical use"),
        "not as the conformance statement publishes",
    ),
    "a reference to nowhere": ("SR", elsewhere, "not among its evidence"),
    "a drawing on another image": ("GSPS", other_image, "not among its evidence"),
    "no mark of ours": ("SC", foreign, "does not carry our mark"),
    "a private attribute": ("PM", private, "private attributes"),
    "another character set": (
        "SR",
        setting("SpecificCharacterSet", "ISO_IR 100"),
        "SpecificCharacterSet is not ISO_IR 192",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_without_a_value_of_the_patient(made, name):
    valid, origins, _ = made
    kind, change, said = FAULTS[name]
    found = gate.faults(changed(valid[kind], change), origins[kind])
    assert any(said in fault for fault in found), found
    assert not any(secret in fault for secret in SECRETS for fault in found)


@pytest.mark.parametrize("kind", ["SR", "SC", "GSPS", "PM"])
def test_a_valid_document_has_no_fault(made, kind):
    valid, origins, _ = made
    assert gate.faults(valid[kind], origins[kind]) == ()
    assert gate.faults(changed(valid[kind], lambda _: None), origins[kind]) == ()


@pytest.mark.parametrize("name", ["pending", "conditional", "withdrawn", "excluded"])
def test_every_state_passes(made, name):
    case, material = made[2]
    state = every_case(case.selection)[name]
    (report,) = documents.write(state, material, DEVICE)
    assert report.kind == "SR"


def test_text_that_is_not_what_it_declares_is_found(made):
    valid, origins, _ = made
    latin = valid["SR"].content.replace(b"Marker^Patient", b"Mark\xe9r^Patient", 1)
    broken = replace(
        valid["SR"], content=latin, sha256=hashlib.sha256(latin).hexdigest()
    )
    found = gate.faults(broken, origins["SR"])
    assert any("is not ISO_IR 192" in fault for fault in found)


def test_bytes_that_are_not_those_of_the_digest_are_found(made):
    valid, origins, _ = made
    content = valid["SC"].content[:-1] + b"\x01"
    broken = replace(valid["SC"], content=content)
    assert gate.faults(broken, origins["SC"]) == ("its digest is another",)


def test_bytes_that_are_no_object_are_found(made):
    valid, origins, _ = made
    broken = replace(valid["SR"], content=b"no object")
    assert "cannot be read again" in gate.faults(broken, origins["SR"])[0]


def test_a_kind_that_nobody_knows_is_found(made):
    valid, _, _ = made
    assert any(
        "is no kind of document" in fault
        for fault in gate.faults(replace(valid["SR"], kind="PDF"))
    )


def test_another_transfer_syntax_is_found(made):
    valid, origins, _ = made

    def change(dataset: Dataset):
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    found = gate.faults(changed(valid["SR"], change), origins["SR"])
    assert any("transfer syntax" in fault for fault in found)


def test_a_variant_for_another_archive_can_be_checked_without_its_origin(made):
    valid, _, _ = made
    enhanced = "1.2.840.10008.5.1.4.1.1.88.22"

    def change(dataset):
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = enhanced
        dataset.SOPInstanceUID = "1.2.3.4"
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"

    variant = replace(
        changed(valid["SR"], change),
        sop_class_uid=enhanced,
        sop_instance_uid="1.2.3.4",
    )
    assert gate.faults(variant) == ()


def contradictory(case, **changes):
    return replace(case, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"sln": replace(ran(Stage.SLN, 0.83), risk=Risk.LOW)},
        {"sln": replace(ran(Stage.SLN, 0.83), weights_sha256=None)},
        {"sln": replace(ran(Stage.SLN, 0.83), threshold=None)},
        {"pathway": Pathway.SLN_NEGATIVE},
        {"discordant": True},
        {"nsln": replace(ran(Stage.NSLN, 0.3), status=StageStatus.CONDITIONAL)},
    ],
)
def test_a_finding_that_contradicts_itself_gives_no_document(made, changes):
    case, material = made[2]
    false = replace(pending(case.selection), **changes)
    with pytest.raises(InvalidDocumentError, match="SR is not fit to be sent"):
        documents.write(false, material, DEVICE)


def test_one_bad_document_keeps_all_from_being_sent(made):
    case, material = made[2]
    header = copy.deepcopy(material.header)
    with silence():
        header.StudyInstanceUID = "1.2.x"
    everything = replace(DEVICE, outputs=tuple(Output))
    with pytest.raises(InvalidDocumentError, match="requeue"):
        documents.write(case, replace(material, header=header), everything)
