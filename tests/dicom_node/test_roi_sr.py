from datetime import timedelta

import pytest

from dicom_node.findings import Carrier
from dicom_node.roi import read_rois
from tests.dicom_objects import (
    AT,
    BOX,
    READER,
    Dataset,
    gsps_rectangle,
    mr_slice,
    reread,
    sr_rectangle,
)

OTHER_BOX = (21.0, 31.0, 50.0, 60.0)
TRACKING_UID = "1.2.826.0.1.3680043.8.498.9"


@pytest.mark.parametrize("like_ohif", [False, True])
def test_a_rectangle_comes_back_once_as_it_was_drawn(like_ohif):
    image = mr_slice()
    report = sr_rectangle(image, tracking_uid=TRACKING_UID, like_ohif=like_ohif)
    (roi,) = read_rois([report]).rois
    assert roi.box == BOX
    assert roi.sop_instance_uid == image.SOPInstanceUID
    assert roi.carrier is Carrier.SR
    assert (roi.author, roi.tracking_uid) == (READER, TRACKING_UID)
    assert roi.marked_at == AT


def test_the_observer_is_found_even_after_the_measurements():
    report = sr_rectangle(mr_slice())
    items = list(report.ContentSequence)
    report.ContentSequence = items[::-1]
    assert read_rois([reread(report)]).rois[0].author == READER


def test_an_image_given_by_reference_is_followed():
    report = sr_rectangle(mr_slice())
    (roi,) = read_rois([report]).rois
    group = report.ContentSequence[-1].ContentSequence[0]
    (region,) = (one for one in group.ContentSequence if one.ValueType == "SCOORD")
    report.ContentSequence.append(region.ContentSequence[0])
    pointer = Dataset()
    pointer.RelationshipType = "SELECTED FROM"
    pointer.ReferencedContentItemIdentifier = [1, len(report.ContentSequence)]
    region.ContentSequence = [pointer]
    assert read_rois([reread(report)]).rois[0].sop_instance_uid == roi.sop_instance_uid


def test_a_newer_version_of_a_mark_replaces_the_older():
    image = mr_slice()
    versions = [
        sr_rectangle(image, box, tracking_uid=TRACKING_UID, at=AT + timedelta(hours=n))
        for n, box in enumerate([BOX, OTHER_BOX])
    ]
    for documents in (versions, versions[::-1]):
        assert [roi.box for roi in read_rois(documents).rois] == [OTHER_BOX]


def test_a_document_named_as_predecessor_counts_no_more():
    image = mr_slice()
    old, new = sr_rectangle(image, BOX), sr_rectangle(image, OTHER_BOX)
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPInstanceUID = old.SOPInstanceUID
    series.ReferencedSOPSequence = [instance]
    study.ReferencedSeriesSequence = [series]
    new.PredecessorDocumentsSequence = [study]
    reading = read_rois([new, old])
    assert [roi.box for roi in reading.rois] == [OTHER_BOX]
    assert "another document replaces it" in reading.refused[0]


def test_a_state_saved_again_is_history_not_a_second_lesion():
    image = mr_slice()
    later = AT + timedelta(minutes=3)
    states = [gsps_rectangle([image], OTHER_BOX, at=later), gsps_rectangle([image])]
    reading = read_rois(states)
    assert [roi.box for roi in reading.rois] == [OTHER_BOX]
    assert "a newer version" in reading.refused[0]


def test_states_saved_together_mark_several_lesions():
    image = mr_slice()
    states = [gsps_rectangle([image], OTHER_BOX), gsps_rectangle([image])]
    assert len(read_rois(states).rois) == 2


def test_two_readers_both_count():
    image = mr_slice()
    states = [gsps_rectangle([image], author=name) for name in (READER, "Other^Otto")]
    assert len(read_rois(states).rois) == 2


def test_our_own_report_is_no_mark():
    report = sr_rectangle(mr_slice())
    report.ManufacturerModelName = "Sentinode"
    assert read_rois([report]).rois == ()


def test_a_broken_document_is_refused_and_the_rest_is_read():
    image = mr_slice()
    broken, whole = sr_rectangle(image), gsps_rectangle([image])
    del broken.ContentSequence
    broken.add_new("ContentSequence", "LO", "not a sequence")
    reading = read_rois([broken, whole])
    assert [roi.box for roi in reading.rois] == [BOX]
    (said,) = reading.refused
    assert said == f"document {broken.SOPInstanceUID} cannot be read (AttributeError)"
