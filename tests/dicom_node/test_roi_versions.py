from dataclasses import replace
from datetime import timedelta

import pytest
from pydicom import Dataset

from dicom_node.findings import Carrier, Roi
from dicom_node.roi import read_rois
from dicom_node.roi.versions import mark, newest
from dicom_node.study import SopInstanceUid
from tests import roi_objects
from tests.dicom_objects import AT, BOX, mr_slice

ROI = Roi(
    SopInstanceUid("1.2.3"),
    1,
    *BOX,
    carrier=Carrier.SR,
    carrier_sop_instance_uid=SopInstanceUid("1.2.4"),
    author="Reader^Rita",
    label="L1",
    marked_at=AT,
)


def marked(*rois, series="1.5", number=1):
    document = Dataset()
    document.SeriesInstanceUID, document.InstanceNumber = series, number
    return [mark(roi, document) for roi in rois]


def later(roi=ROI, **changes):
    uid = SopInstanceUid("1.2.5")
    moved = {"marked_at": AT + timedelta(hours=1), "carrier_sop_instance_uid": uid}
    return replace(roi, **(moved | changes))


def test_the_newest_of_a_lesion_counts_and_the_older_is_named():
    current, outdated = newest(marked(ROI, later()))
    assert current == (later(),)
    assert outdated == ("document 1.2.4: a newer version of its mark is there",)


@pytest.mark.parametrize(
    "changes",
    [{"author": "Other^Otto"}, {"label": "L2"}, {"tracking_uid": "1.9"}],
)
def test_another_author_or_lesion_is_no_version(changes):
    current, outdated = newest(marked(ROI, later(**changes)))
    assert len(current) == 2
    assert outdated == ()


def test_the_carriers_of_one_lesion_are_versions_of_each_other():
    current, _ = newest(marked(ROI, later(carrier=Carrier.SEG, exact=False)))
    assert [roi.carrier for roi in current] == [Carrier.SEG]


def test_marks_of_one_document_stand_side_by_side():
    other = replace(ROI, x0=0.0)
    assert newest(marked(ROI, other)) == ((ROI, other), ())


def test_without_a_time_the_instance_number_tells_the_version():
    roi = replace(ROI, marked_at=None)
    again = replace(roi, carrier_sop_instance_uid=SopInstanceUid("1.2.5"))
    marks = marked(again, number=2) + marked(roi, number=1)
    assert newest(marks)[0] == (again,)


@pytest.mark.parametrize("writer", [*roi_objects.EXACT, *roi_objects.WHOLE])
def test_every_carrier_knows_when_it_was_saved(writer, tmp_path):
    image = mr_slice()
    document = (roi_objects.EXACT | roi_objects.WHOLE)[writer](image, BOX)
    images = roi_objects.images_of(tmp_path, image)
    (roi,) = read_rois([document], images).rois
    assert roi.marked_at is not None
