"""Each validator must be able to fail, else its silence says nothing."""

from io import BytesIO

import pytest
from pydicom import dcmread

from dicom_node.images import read_header, read_pixels, read_study
from dicom_node.report.encode import encode
from dicom_node.report.gsps import build_gsps
from dicom_node.report.sr import build_sr
from dicom_node.roi import read_rois
from dicom_node.selection import select
from tests import dicom_objects, validators
from tests.dicom_objects import gsps_rectangle, mr_slice
from tests.report_cases import DEVICE, pending
from tests.validators import written


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A valid report and a valid presentation state."""
    image = mr_slice()
    folder = tmp_path_factory.mktemp("store")
    objects = read_study(dicom_objects.store(folder, [image]))
    (selection,) = select(objects, read_rois([gsps_rectangle([image])]))
    header = read_header(selection.path)
    case = pending(selection)
    return {
        "SR": build_sr(case, header, None, None, DEVICE),
        "GSPS": build_gsps(case, header, read_pixels(selection.path, 1), DEVICE),
    }


def damaged(document, change):
    dataset = dcmread(BytesIO(document.content))
    change(dataset)
    return encode(dataset, document.kind)


def test_dciodvfy_finds_an_attribute_that_is_missing(documents, tmp_path):
    def change(dataset):
        del dataset.CompletionFlag

    path = written(damaged(documents["SR"], change), tmp_path)
    assert any("CompletionFlag" in line for line in validators.dciodvfy(path, "SR"))


def test_dciodvfy_must_recognise_what_it_reads(documents, tmp_path):
    path = written(documents["SR"], tmp_path)
    assert "recognised as" in validators.dciodvfy(path, "SC")[0]


def test_pixelmed_finds_a_template_violated_and_a_file_that_it_cannot_read(
    documents, tmp_path
):
    def change(dataset):
        observer = dataset.ContentSequence[1]
        observer.ConceptCodeSequence[0].CodeValue = "121003"

    valid = written(documents["SR"], tmp_path, "valid")
    wrong = written(damaged(documents["SR"], change), tmp_path, "wrong")
    garbage = tmp_path / "garbage.dcm"
    garbage.write_bytes(b"no report")
    found = validators.pixelmed([valid, wrong, garbage])
    assert found[valid] == []
    assert found[wrong]
    assert "not judged" in found[garbage][-1]


def test_pixelmed_that_does_not_start_is_no_approval(documents, tmp_path, monkeypatch):
    monkeypatch.setattr(validators, "CLASS_PATH", "/nowhere")
    path = written(documents["SR"], tmp_path)
    assert "not judged" in validators.pixelmed([path])[path][0]


def test_pixelmed_without_its_limits_lifted_is_no_approval(
    documents, tmp_path, monkeypatch
):
    monkeypatch.setattr(validators, "UNLIMITED", ["-Djdk.xml.xpathExprOpLimit=1"])
    path = written(documents["SR"], tmp_path)
    assert "not judged" in validators.pixelmed([path])[path][-1]


def test_dcmpschk_finds_a_presentation_state_without_its_image(documents, tmp_path):
    def change(dataset):
        del dataset.ReferencedSeriesSequence

    valid = written(documents["GSPS"], tmp_path)
    assert validators.dcmpschk(valid) == []
    assert validators.dcmpschk(written(damaged(documents["GSPS"], change), tmp_path))
