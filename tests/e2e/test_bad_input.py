"""What must not be analysed is refused, held, ignored or failed, with a reason."""

import warnings

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import MRImageStorage

from dicom_node.association import pausing
from tests import dicom_objects
from tests.peers import AET, ORTHANC_AET, Orthanc, Sentinode, dcmsend

pytestmark = pytest.mark.e2e


def send(sentinode: Sentinode, write, *datasets: Dataset) -> str:
    dcmsend(str(sentinode), *(write(one) for one in datasets))
    return str(datasets[0].StudyInstanceUID)


def test_an_unknown_calling_ae_is_rejected(site: tuple[Sentinode, Orthanc]):
    sentinode, _ = site
    ae = AE("STRANGER")
    ae.add_requested_context(MRImageStorage)

    association = ae.associate("127.0.0.1", sentinode.port, ae_title=AET)

    assert association.is_rejected


def test_a_uid_with_path_characters_is_refused(site: tuple[Sentinode, Orthanc]):
    sentinode, _ = site
    hostile = dicom_objects.mr_slice()
    ae = AE(ORTHANC_AET)
    ae.add_requested_context(MRImageStorage, hostile.file_meta.TransferSyntaxUID)
    association = pausing(ae.associate("127.0.0.1", sentinode.port, ae_title=AET))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the UID, as it should
        hostile.StudyInstanceUID = "../../escaped"
        status = association.send_c_store(hostile)
    association.release()

    assert status.Status in {0xC001, 0xC002}
    assert not list(sentinode.folder.parent.rglob("*escaped*"))


def test_a_rectangle_on_an_image_that_never_came_holds_the_study(
    site: tuple[Sentinode, Orthanc], write
):
    sentinode, _ = site
    slices = dicom_objects.fresh_study("bad 1")
    mark = dicom_objects.gsps_rectangle([slices[4]])
    uid = send(sentinode, write, *(one for one in slices if one is not slices[4]), mark)

    study = sentinode.await_state(uid, "held")
    shown = sentinode.run("studies", "show", uid).stdout

    assert study["reason"] == "roi_image_missing"
    assert "roi_image_missing" in shown


def test_a_marked_slice_that_cannot_be_decoded_fails_the_study(
    site: tuple[Sentinode, Orthanc], write
):
    sentinode, _ = site
    slices = dicom_objects.fresh_study("bad 2")
    for one in slices:
        one.PixelData = one.PixelData[: len(one.PixelData) // 2]
    mark = dicom_objects.gsps_rectangle([slices[4]])

    study = sentinode.await_state(send(sentinode, write, *slices, mark), "failed")

    assert study["reason"] == "unreadable"
    assert study["detail"]


def test_a_study_of_another_region_is_ignored(site: tuple[Sentinode, Orthanc], write):
    sentinode, _ = site
    slices = dicom_objects.fresh_study(
        "bad 3", BodyPartExamined="PROSTATE", StudyDescription="MR prostate"
    )

    study = sentinode.await_state(send(sentinode, write, *slices), "ignored")

    assert study["reason"] == "not_breast_mr"


def test_a_good_study_passes_beside_all_of_them(site: tuple[Sentinode, Orthanc], write):
    sentinode, _ = site
    slices = dicom_objects.fresh_study("bad 4")
    mark = dicom_objects.sr_rectangle(slices[4])

    study = sentinode.await_state(send(sentinode, write, *slices, mark), "analyzed")

    assert study["reason"] is None
