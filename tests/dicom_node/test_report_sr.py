import logging
import shutil
import subprocess
from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread

from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import (
    Carrier,
    Laterality,
    Pathway,
    Risk,
    Roi,
    Selection,
    Slnd,
    Stage,
    StageStatus,
)
from dicom_node.images import read_header, read_study
from dicom_node.own import is_own
from dicom_node.report.reading import read_report
from dicom_node.report.sr import build_sr
from dicom_node.roi import read_rois
from dicom_node.selection import select
from dicom_node.study import SopInstanceUid
from tests import dicom_objects, report_cases
from tests.dicom_objects import dynamic_series, gsps_rectangle, mr_slice, sr_rectangle
from tests.report_cases import DEVICE, every_case, pending, ran

CASES = (
    *("pending", "done", "excluded", "not indicated", "discordant"),
    "conditional",
)
DEFECTS = {
    "no study id": {"StudyID": None},
    "no accession number": {"AccessionNumber": None},
    "no birth date": {"PatientBirthDate": None},
    "no study time": {"StudyTime": None},
    "an impossible birth date": {"PatientBirthDate": "00000000"},
    "a time with colons": {"StudyTime": "10:00:00"},
    "a sex that is a word": {"PatientSex": "W"},
    "an age without unit": {"PatientAge": "56"},
    "a name of one word": {"PatientName": "MARKER"},
    "no name at all": {"PatientName": None},
    "no thickness": {"SliceThickness": None},
    "no frame of reference": {"FrameOfReferenceUID": None},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎",
    },
    "anonymous without method": {"PatientIdentityRemoved": "YES"},
}


@pytest.fixture
def chosen(tmp_path):
    """A choice on a synthetic study, the analysed header, and the mark's carrier."""
    images = dynamic_series()
    mark = sr_rectangle(images[7])
    objects = read_study(dicom_objects.store(tmp_path, [*images, mark]))
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


@pytest.mark.parametrize("name", CASES)
def test_validators_find_no_error(chosen, tmp_path, name):
    selection, header, mark = chosen
    previous = parsed(build_sr(pending(selection), header, mark, None, DEVICE))
    case = every_case(selection)[name]
    report = build_sr(case, header, mark, previous, DEVICE)
    path = tmp_path / "report.dcm"
    assert report_cases.validate(report, path) == []
    subprocess.run(["dsrdump", path], capture_output=True, check=True)


@pytest.mark.parametrize("name", CASES)
def test_validators_find_no_error_on_a_real_slice(real, tmp_path, name):
    selection, header, mark = real
    report = build_sr(every_case(selection)[name], header, mark, None, DEVICE)
    assert report_cases.validate(report, tmp_path / "report.dcm") == []


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_of_the_source_do_not_reach_the_report(tmp_path, name):
    selection, header, mark = single(mr_slice(**DEFECTS[name]), tmp_path)
    report = build_sr(pending(selection), header, mark, None, DEVICE)
    assert report_cases.validate(report, tmp_path / "report.dcm") == []
    expected = DEFECTS[name].get("PatientName", dicom_objects.PATIENT)
    assert str(parsed(report).PatientName) == (expected or "")


def test_headers_of_many_vendors_give_valid_reports(real_data, tmp_path):
    folders = [one for one in (real_data / "mr-multivendor").iterdir() if one.is_dir()]
    assert len(folders) == 11
    for folder in folders:
        path = min(folder.iterdir())
        header = read_header(path)
        roi = Roi(
            SopInstanceUid(str(header.SOPInstanceUID)),
            1,
            *dicom_objects.BOX,
            carrier=Carrier.GSPS,
            carrier_sop_instance_uid=SopInstanceUid("1.2.3"),
        )
        selection = Selection(
            roi=roi,
            sop_instance_uid=roi.sop_instance_uid,
            frame=1,
            path=path,
            phase="as marked",
            laterality=Laterality.RIGHT,
            laterality_derived=False,
            area_mm2=480.0,
            candidates=1,
            why=("1 rectangle.",),
        )
        report = build_sr(pending(selection), header, None, None, DEVICE)
        assert report_cases.validate(report, tmp_path / "report.dcm") == [], folder


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


def test_the_validators_are_there():
    assert shutil.which("dsrdump"), "dsrdump of DCMTK is needed"
