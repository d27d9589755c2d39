import logging
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import (
    Laterality,
    Pathway,
    Risk,
    Slnd,
    Stage,
    StageStatus,
)
from dicom_node.images import read_header, read_study
from dicom_node.own import is_own
from dicom_node.report.encode import encode
from dicom_node.report.groups import person_name
from dicom_node.report.reading import read_report
from dicom_node.report.sr import build_sr
from dicom_node.report.summary import RESEARCH_ONLY, percentages
from dicom_node.roi import read_rois
from dicom_node.selection import select
from tests import dicom_objects, report_cases, validators
from tests.dicom_objects import dynamic_series, gsps_rectangle, mr_slice, sr_rectangle
from tests.report_cases import DEVICE, every_case, pending, ran
from tests.validators import dciodvfy, dsr2html, dsrdump, written

CASES = (
    "pending",
    "done",
    "excluded",
    "not indicated",
    "discordant",
    "high twice",
    "withdrawn",
    "conditional",
    "right side",
)
VARIANTS = {
    "Comprehensive": "1.2.840.10008.5.1.4.1.1.88.33",
    "Enhanced": "1.2.840.10008.5.1.4.1.1.88.22",
}
RICHEST = ("discordant", "conditional")
"""States whose trees, together, hold every item that a report can have."""


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A choice on a synthetic study, the analysed header, and the mark's carrier."""
    images = dynamic_series()
    mark = sr_rectangle(images[7])
    folder = tmp_path_factory.mktemp("chosen")
    objects = read_study(dicom_objects.store(folder, [*images, mark]))
    (selection,) = select(objects, read_rois(objects.documents))
    return selection, read_header(selection.path), mark


@pytest.fixture(scope="module")
def real(real_data):
    """The same on the real study, marked on phase 5."""
    folder = real_data / "breast-dce-mri/multiphase-study-d1f3d33d"
    objects = read_study(dicom_objects.stored_folder(folder))
    marked = next(one for one in objects.images if one.series_number == 17)
    box = (220.0, 140.0, 250.0, 170.0)
    mark = gsps_rectangle([dcmread(marked.path)], box)
    (selection,) = select(objects, read_rois([mark]))
    return selection, read_header(selection.path), mark


def parsed(document):
    return dcmread(BytesIO(document.content))


def single(image, tmp_path):
    """The choice on a study of one slice."""
    mark = gsps_rectangle([mr_slice()])
    objects = read_study(dicom_objects.store(tmp_path, [image]))
    (selection,) = select(objects, read_rois([mark]))
    return selection, read_header(selection.path), mark


def as_class(document, sop_class_uid):
    """The same tree under another SR class."""
    report = parsed(document)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = sop_class_uid
    return encode(report, "SR")


@pytest.fixture(scope="module")
def written_reports(chosen, tmp_path_factory):
    """Each state as a file, and the richest ones under every SR class too."""
    selection, header, mark = chosen
    folder = tmp_path_factory.mktemp("reports")
    previous = parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    reports = {
        name: build_sr(case, header, mark, previous, DEVICE)
        for name, case in every_case(selection).items()
    }
    for name in RICHEST:
        for variant, uid in VARIANTS.items():
            reports[f"{name}, {variant}"] = as_class(reports[name], uid)
    return {name: written(report, folder, name) for name, report in reports.items()}


@pytest.fixture(scope="module")
def pixelmed_errors(written_reports):
    """What PixelMed says of each; one process judges all, as its start takes long."""
    return validators.pixelmed(list(written_reports.values()))


def test_there_is_a_report_for_every_state(written_reports):
    assert set(CASES) <= set(written_reports)


@pytest.mark.parametrize(
    "name", [*CASES, *(f"{case}, {sr}" for case in RICHEST for sr in VARIANTS)]
)
def test_validators_find_no_error(written_reports, pixelmed_errors, tmp_path, name):
    path = written_reports[name]
    assert dciodvfy(path, "SR") == []
    assert pixelmed_errors[path] == []
    assert RESEARCH_ONLY in dsrdump(path)
    assert RESEARCH_ONLY in dsr2html(path, tmp_path / "report.html")


@pytest.mark.parametrize("name", CASES)
def test_validators_find_no_error_on_a_real_slice(real, tmp_path, name):
    selection, header, mark = real
    report = build_sr(every_case(selection)[name], header, mark, None, DEVICE)
    assert dciodvfy(written(report, tmp_path), "SR") == []


def test_what_was_found_is_read_back(chosen):
    selection, header, mark = chosen
    case = every_case(selection)["done"]
    values = read_report(parsed(build_sr(case, header, mark, None, DEVICE)))
    assert values.sln.probability == pytest.approx(case.sln.probability, rel=1e-14)
    assert values.sln.threshold == 0.5
    assert (values.sln.risk, values.nsln.risk) == (Risk.HIGH, Risk.LOW)
    assert (values.sln.model_name, values.sln.model_version) == ("sln-demo", "1.2.0")
    assert values.sln.weights_sha256 == "ab" * 32
    assert values.sln.performance == (
        "At this threshold: sensitivity 90.3% (28/31, 95% CI 75.1 to 96.7%), "
        "specificity 70.0% (70/100, 95% CI 60.4 to 78.1%); "
        "data set: phantom bench, n=131."
    )
    assert values.nsln.status is StageStatus.DONE
    assert values.pathway is Pathway.NSLN_LOW_RISK
    assert (values.laterality, values.laterality_derived) == (Laterality.LEFT, True)
    assert values.phase == "post-contrast 1"
    assert values.slnd is Slnd.POSITIVE
    assert not values.discordant


def test_a_stage_that_did_not_run_has_no_number(chosen):
    selection, header, mark = chosen
    values = read_report(
        parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    )
    assert values.nsln.status is StageStatus.PENDING
    assert values.nsln.probability is None
    assert values.nsln.risk is None
    assert values.nsln.model_name is None
    assert values.slnd is None


def test_a_risk_is_never_written_as_an_observed_metastasis(chosen):
    selection, header, mark = chosen
    case = every_case(selection)["done"]
    report = parsed(build_sr(case, header, mark, None, DEVICE))
    groups = report.ContentSequence[-1].ContentSequence
    findings = [
        item.ConceptCodeSequence[0].CodeMeaning
        for group in groups
        for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeMeaning in {"Finding", "Finding Site"}
    ]
    assert findings == ["Lesion", "Breast"]


@pytest.mark.parametrize(
    ("name", "complete"),
    [("pending", False), ("done", True), ("excluded", True), ("not indicated", True)],
)
def test_only_a_closed_case_is_complete_and_nothing_is_verified(chosen, name, complete):
    selection, header, mark = chosen
    report = parsed(build_sr(every_case(selection)[name], header, mark, None, DEVICE))
    values = read_report(report)
    assert (values.complete, values.final) == (complete, complete)
    assert not values.verified
    assert values.research
    assert report.SeriesDescription.startswith("RESEARCH")


def test_discordance_is_said(chosen):
    selection, header, mark = chosen
    case = every_case(selection)["discordant"]
    assert read_report(parsed(build_sr(case, header, mark, None, DEVICE))).discordant


def test_a_withdrawn_result_of_pathology_is_not_written(chosen):
    selection, header, mark = chosen
    withdrawn = replace(report_cases.POSITIVE, result=Slnd.WITHDRAWN)
    case = replace(pending(selection), slnd=withdrawn)
    assert read_report(parsed(build_sr(case, header, mark, None, DEVICE))).slnd is None


def test_the_only_phase_is_told_as_marked(tmp_path):
    selection, header, mark = single(mr_slice(), tmp_path)
    report = build_sr(pending(selection), header, mark, None, DEVICE)
    assert b"phase: as marked" in report.content
    assert read_report(parsed(report)).phase == "as marked"


def test_a_probability_just_below_the_threshold_stays_below(chosen):
    selection, header, mark = chosen
    case = replace(pending(selection), sln=ran(Stage.SLN, 0.49999999))
    values = read_report(parsed(build_sr(case, header, mark, None, DEVICE)))
    assert values.sln.probability < values.sln.threshold
    assert values.sln.risk is Risk.LOW


def test_versions_share_series_and_tracking_and_name_the_older(chosen):
    selection, header, mark = chosen
    first = parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    done = every_case(selection)["done"]
    second = parsed(build_sr(done, header, mark, first, DEVICE))
    assert second.SeriesInstanceUID == first.SeriesInstanceUID
    assert second.SOPInstanceUID != first.SOPInstanceUID
    assert read_report(second).predecessors == (first.SOPInstanceUID,)


def test_the_same_case_gives_the_same_bytes(chosen):
    selection, header, mark = chosen
    case = every_case(selection)["done"]
    once = build_sr(case, header, mark, None, DEVICE)
    assert build_sr(case, header, mark, None, DEVICE) == once


def test_image_and_carrier_are_evidence_in_the_same_study(chosen):
    selection, header, mark = chosen
    report = parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    assert report.StudyInstanceUID == header.StudyInstanceUID
    cited = {
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert cited == {header.SOPInstanceUID, mark.SOPInstanceUID}


def test_our_report_is_recognised_and_gives_no_mark(chosen):
    selection, header, mark = chosen
    report = parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    assert is_own(report)
    assert read_rois([report]).rois == ()


def test_the_zone_of_the_source_is_kept(tmp_path):
    image = mr_slice(TimezoneOffsetFromUTC="+0530")
    selection, header, mark = single(image, tmp_path)
    report = parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    assert report.TimezoneOffsetFromUTC == "+0530"
    assert (report.ContentDate, report.ContentTime) == ("20260304", "103607")


def test_building_says_nothing_of_the_patient(tmp_path, caplog, recwarn, capfd):
    caplog.set_level(logging.DEBUG)
    image = mr_slice(PatientName="MARKER", PatientBirthDate="19700203")
    selection, header, mark = single(image, tmp_path)
    caplog.clear()
    recwarn.clear()
    build_sr(pending(selection), header, mark, None, DEVICE)
    said = caplog.text + "".join(capfd.readouterr())
    assert "MARKER" not in said
    assert "19700203" not in said
    assert not recwarn.list


def test_a_report_of_another_product_is_not_read():
    with pytest.raises(UnreadableObjectError):
        read_report(sr_rectangle(mr_slice()))


LINES = {
    "pending": (
        "Left breast (side derived from the position). Version 1 of this report.",
        "metastasis: HIGH risk, probability 83.1 %, threshold 50.0 %, model sln-demo",
        "Stage II, non-sentinel lymph node (NSLN) metastasis: not run, it waits",
        "Awaited: the SLND result of this side",
    ),
    "done": (
        "(SLND): positive, macrometastasis, performed 2026-04-01.",
        "metastasis: LOW risk, probability 31.0 %, threshold 50.0 %, model nsln-demo",
        "Awaited: nothing.",
    ),
    "excluded": ("(SLND): negative", "not run, the SLND result excludes it"),
    "not indicated": ("LOW risk, probability 12.0 %", "not run, stage I found low"),
    "discordant": ("DISCORDANT: stage I said low risk",),
    "high twice": ("metastasis: HIGH risk, probability 77.0 %",),
    "withdrawn": ("the result was withdrawn", "Awaited: the SLND result"),
    "conditional": (
        "only if SLND is positive: probability 31.0 %, threshold 50.0 %, no risk",
        "Awaited: the SLND result",
    ),
    "right side": ("Right breast",),
}


@pytest.mark.parametrize("name", LINES)
def test_the_first_text_says_what_was_found_and_what_is_awaited(written_reports, name):
    text = read_report(dcmread(written_reports[name])).summary
    assert text.startswith("RESEARCH USE ONLY")
    for line in LINES[name]:
        assert line in text


def test_no_container_comes_before_the_summary(written_reports):
    report = dcmread(written_reports["done"])
    contained = [
        item.ValueType
        for item in report.ContentSequence
        if item.RelationshipType == "CONTAINS"
    ]
    assert contained == ["TEXT", "CONTAINER", "CONTAINER"]


@pytest.mark.parametrize(
    ("probability", "threshold", "shown"),
    [
        (0.83, 0.5, ("83.0", "50.0")),
        (0.4996, 0.5, ("49.96", "50.00")),
        (0.5, 0.5, ("50.0", "50.0")),
        (np.nextafter(0.5, 0), 0.5, ("49.99999999999999", "50.00000000000000")),
    ],
)
def test_rounding_never_makes_unequal_numbers_equal(probability, threshold, shown):
    assert percentages(probability, threshold) == shown


def walk(item):
    for child in item.get("ContentSequence") or ():
        yield child
        yield from walk(child)


def test_the_algorithm_names_what_decided_its_number(chosen):
    selection, header, mark = chosen
    device = replace(DEVICE, code_sha256="ef" * 32)
    report = parsed(build_sr(pending(selection), header, mark, None, device))
    said = {str(item.get("TextValue")) for item in walk(report)}
    for parameter in (
        "threshold=0.5",
        "weights-sha256=" + "ab" * 32,
        "preprocessing-sha256=" + "cd" * 32,
        f"input-sop-instance-uid={header.SOPInstanceUID}",
        f"marked-sop-instance-uid={selection.roi.sop_instance_uid}",
        f"marked-by-sop-instance-uid={mark.SOPInstanceUID}",
        "code-version=0.1.0",
        "code-sha256=" + "ef" * 32,
    ):
        assert parameter in said
    assert list(report.SoftwareVersions) == ["0.1.0", "code sha256 " + "ef" * 8]


def test_scanner_sentinode_and_library_are_named_as_contributors(chosen):
    selection, header, mark = chosen
    report = parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    scanner, ours, library = report.ContributingEquipmentSequence
    purposes = [
        item.PurposeOfReferenceCodeSequence[0].CodeValue
        for item in (scanner, ours, library)
    ]
    assert purposes == ["109101", "109102", "109102"]
    assert (scanner.Manufacturer, scanner.ManufacturerModelName) == ("ACME", "Magnet 3")
    assert (ours.DeviceUID, ours.SoftwareVersions) == (DEVICE.uid, "0.1.0")
    assert library.ManufacturerModelName == "highdicom"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Reader^Rita", "Reader^Rita"),
        ("One\\Two", "One Two"),
        ("A" * 80, "A" * 64),
        ("a=b=c=d", "a=b=c"),
        ("two\r\nlines", "two  lines"),
    ],
)
def test_a_readers_name_is_a_name_whatever_the_mark_said(said, name):
    assert person_name(said) == name
