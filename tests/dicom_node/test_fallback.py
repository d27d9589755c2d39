"""A report of ours as another SR class: the same content under another UID."""

from dataclasses import replace
from io import BytesIO

import pytest
from pydicom import dcmread

from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Pathway, Stage
from dicom_node.images import read_header, read_study
from dicom_node.own import is_own
from dicom_node.report.fallback import (
    COMPREHENSIVE,
    COMPREHENSIVE_3D,
    ENHANCED,
    as_class,
    stand_ins,
    variant_uid,
)
from dicom_node.report.sr import build_sr
from dicom_node.roi import read_rois
from dicom_node.selection import select
from tests import dicom_objects, report_cases
from tests.dicom_objects import dynamic_series, sr_rectangle
from tests.report_cases import DEVICE, POSITIVE, pending, ran
from tests.validators import dciodvfy, written


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """Two versions of one case; the second names the first as its predecessor."""
    images = dynamic_series()
    mark = sr_rectangle(images[7])
    folder = tmp_path_factory.mktemp("study")
    objects = read_study(dicom_objects.store(folder, [*images, mark]))
    (choice,) = select(objects, read_rois(objects.documents))
    source = read_header(choice.path)
    first = pending(choice)
    second = replace(
        first,
        version=2,
        nsln=ran(Stage.NSLN, 0.31),
        slnd=POSITIVE,
        pathway=Pathway.NSLN_LOW_RISK,
    )
    one = build_sr(first, source, mark, None, DEVICE)
    two = build_sr(second, source, mark, dcmread(BytesIO(one.content)), DEVICE)
    return one, two


def read(document):
    return dcmread(BytesIO(document.content))


def test_the_chain_goes_from_the_richest_class_to_the_widest():
    assert stand_ins(COMPREHENSIVE_3D) == (COMPREHENSIVE, ENHANCED)
    assert stand_ins(ENHANCED) == ()
    assert stand_ins("1.2.840.10008.5.1.4.1.1.7") == ()


@pytest.mark.parametrize("sop_class", [COMPREHENSIVE, ENHANCED])
@pytest.mark.parametrize("number", [0, 1])
def test_a_variant_is_valid_and_says_the_same(versions, tmp_path, sop_class, number):
    original = versions[number]
    variant = as_class(original.content, "SR", sop_class)
    before, after = read(original), read(variant)
    assert dciodvfy(written(variant, tmp_path), "SR") == []
    assert after.ContentSequence == before.ContentSequence
    assert after.SOPClassUID == sop_class
    assert after.file_meta.MediaStorageSOPClassUID == sop_class
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert variant.sop_instance_uid == after.SOPInstanceUID != before.SOPInstanceUID
    assert after.PatientName == before.PatientName
    assert is_own(after)


@pytest.mark.parametrize("sop_class", [COMPREHENSIVE, ENHANCED])
def test_the_versions_refer_to_one_another_at_that_archive(versions, sop_class):
    first, second = (read(as_class(each.content, "SR", sop_class)) for each in versions)
    item = second.PredecessorDocumentsSequence[0]
    reference = item.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert reference.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == sop_class
    assert item.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID


def test_the_same_report_gives_the_same_bytes(versions):
    made = {as_class(versions[1].content, "SR", ENHANCED) for _ in range(3)}
    assert len(made) == 1


def test_each_class_has_a_uid_of_its_own(versions):
    uid = versions[0].sop_instance_uid
    made = {variant_uid(uid, each) for each in (COMPREHENSIVE, ENHANCED)} | {uid}
    assert len(made) == 3


@pytest.mark.parametrize(
    ("content", "sop_class"),
    [(b"", ENHANCED), (b"no DICOM" * 40, ENHANCED), (None, COMPREHENSIVE_3D)],
)
def test_what_cannot_be_rewritten_says_so(versions, content, sop_class):
    given = versions[0].content if content is None else content
    with pytest.raises(UnreadableObjectError, match="cannot be written"):
        as_class(given, "SR", sop_class)


def test_other_references_stay(versions):
    before, after = (
        read(versions[1]),
        read(as_class(versions[1].content, "SR", ENHANCED)),
    )
    keyword = "CurrentRequestedProcedureEvidenceSequence"
    assert after[keyword] == before[keyword]
    assert report_cases.DEVICE.uid in after.to_json()
