"""Two readers of one side: agreement, consensus, two lesions, adjudication."""

from dataclasses import replace

import pytest

from dicom_node.errors import StudyHeldError
from dicom_node.explanation import Verdict
from dicom_node.findings import Carrier
from dicom_node.selection import Rules
from dicom_node.study import Reason
from tests.mr_images import BOX, chosen, frame, key, mark, series_of_phases, told

MEAN = Rules(readers="mean")
HOLD = Rules()
OTHER = "Other^Otto"
WIDE = (20.0, 20.0, 60.0, 60.0)


def shifted(box, by):
    return (box[0] + by, box[1], box[2] + by, box[3])


def iou_box(iou: float):
    """A part of WIDE, as wide as it must be to overlap it by an IoU."""
    return (20.0, 20.0, 20.0 + 40.0 * iou, 60.0)


def verdicts(found):
    return [str(one.verdict) for one in found.marks]


@pytest.mark.parametrize("by", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("rules", [HOLD, MEAN])
def test_practically_identical_rectangles_are_one(by, rules):
    image = frame()
    marks = [mark(image, WIDE), mark(image, shifted(WIDE, by), OTHER)]
    (one,) = chosen([image], marks, rules=rules)
    assert one.roi in marks
    assert "they agree, no edge differs by more than 1 pixel" in " ".join(one.why)


def test_readers_who_agree_are_held_unless_the_site_decides():
    image = frame()
    marks = [mark(image, WIDE), mark(image, shifted(WIDE, 1.01), OTHER)]
    found = told([image], marks)
    assert found.stop.reason is Reason.ROI_CONFLICT
    assert "IoU 0.95" in found.stop.detail
    assert "SENTINODE_READERS=mean" in found.stop.detail
    assert verdicts(found) == ["undecided", "undecided"]


def test_the_mean_of_readers_who_agree_names_both():
    image = frame()
    marks = [mark(image, WIDE), mark(image, (22.0, 24.0, 58.0, 60.0), OTHER)]
    found = told([image], marks, rules=MEAN)
    (one,) = found.chosen
    assert one.roi.box == (21.0, 22.0, 59.0, 60.0)
    assert one.area_mm2 == 38.0 * 38.0
    assert one.roi.author == "Reader^Rita & Other^Otto"
    assert not one.roi.exact
    assert verdicts(found) == ["won", "merged"]
    assert "The mean of the rectangles of Reader Rita and Other Otto" in str(one.why)


@pytest.mark.parametrize(
    ("iou", "rules", "outcome"),
    [
        (0.71, HOLD, "agree"),
        (0.7, HOLD, "agree"),
        (0.69, HOLD, "consensus"),
        (0.7, MEAN, "mean"),
        (0.69, MEAN, "consensus"),
        (0.31, MEAN, "consensus"),
        (0.29, HOLD, "consensus"),
        (0.29, MEAN, "consensus"),
        (0.02, MEAN, "consensus"),
    ],
)
def test_the_bounds_of_agreement_on_one_slice(iou, rules, outcome):
    image = frame()
    box = iou_box(iou) if iou > 0.1 else (57.0, 50.0, 70.0, 70.0)
    found = told([image], [mark(image, WIDE), mark(image, box, OTHER)], rules=rules)
    if outcome == "mean":
        assert found.chosen[0].roi.box == (20.0, 20.0, 54.0, 60.0)
        return
    assert found.stop.reason is Reason.ROI_CONFLICT
    said = {"agree": "they agree on the lesion", "consensus": "needs consensus"}
    assert said[outcome] in found.stop.detail
    assert f"IoU {iou:.2f}" in found.stop.detail
    assert "roi set" in found.stop.detail


def test_rectangles_that_do_not_meet_are_two_lesions():
    image = frame()
    small = (70.0, 70.0, 80.0, 80.0)
    found = told([image], [mark(image, small, OTHER), mark(image, WIDE)])
    assert found.chosen[0].roi.box == WIDE
    assert verdicts(found) == ["outdone", "won"]


@pytest.mark.parametrize(
    ("apart", "box", "rules", "outcome"),
    [
        (2.0, WIDE, HOLD, "held"),  # one lesion, which slice?
        (2.0, WIDE, MEAN, "largest"),  # agreed: the slice of the largest area
        (2.0, iou_box(0.5), MEAN, "held"),
        (2.0, (30.0, 30.0, 45.0, 45.0), MEAN, "held"),  # nested
        (2.0, (52.0, 20.0, 80.0, 60.0), HOLD, "largest"),  # IoU 0.13
        (2.0, (70.0, 70.0, 80.0, 80.0), HOLD, "largest"),
        (40.0, iou_box(0.5), MEAN, "held"),  # as deep as it is wide
        (42.0, iou_box(0.5), HOLD, "largest"),
    ],
)
def test_marks_on_different_slices_may_be_of_one_lesion(apart, box, rules, outcome):
    images = [frame(3, z) for z in sorted({0.0, 2.0, apart})]
    marks = [mark(images[0], WIDE), mark(images[-1], box, OTHER)]
    found = told(images, marks, rules=rules)
    if outcome == "largest":
        assert found.chosen[0].roi == marks[0]
    else:
        assert found.stop.reason is Reason.ROI_CONFLICT
        assert f"on slices {apart:.1f} mm apart" in found.stop.detail


def test_phases_of_one_position_are_one_slice():
    images = series_of_phases()
    marks = [mark(images[1], WIDE), mark(images[7], shifted(WIDE, 2.0), OTHER)]
    (one,) = chosen(images, marks, rules=MEAN)
    assert one.roi.box == shifted(WIDE, 1.0)
    assert one.sop_instance_uid == images[4].sop_instance_uid


def test_rectangles_are_compared_in_the_patient_not_in_pixels():
    coarse = frame()
    fine = frame(
        4,
        spacing=(0.5, 0.5),
        rows=192,
        columns=224,
        position=(19.75, -60.25, 0.0),
        description="t1 post fine",
    )
    marks = [mark(coarse, WIDE), mark(fine, (40.0, 40.0, 120.0, 120.0), OTHER)]
    (one,) = chosen([coarse, fine], marks)
    assert "they agree" in " ".join(one.why)


def test_planes_that_cross_are_a_matter_for_a_person():
    axial = frame()
    sagittal = frame(
        9,
        orientation=(0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
        position=(60.0, -60.0, 50.0),
        description="sag",
    )
    marks = [mark(axial, WIDE), mark(sagittal, WIDE, OTHER)]
    stop = told([axial, sagittal], marks).stop
    assert stop.reason is Reason.ROI_CONFLICT
    assert "cannot be compared" in stop.detail
    away = replace(sagittal, position=(120.0, -60.0, 50.0))
    assert told([axial, away], [marks[0], mark(away, WIDE, OTHER)]).stop is None


@pytest.mark.parametrize(
    "other", [None, "READER^RITA", "Reader^Rita^^", " Reader ^ Rita=\u5c71\u7530"]
)
def test_one_reader_may_mark_as_often_as_it_takes(other):
    author = None if other is None else "Reader^Rita"
    image = frame()
    marks = [mark(image, WIDE, author), mark(image, shifted(WIDE, 10.0), other)]
    assert chosen([image], marks)[0].candidates == 2


def test_an_unnamed_reader_is_another_one():
    image = frame()
    found = told([image], [mark(image, WIDE), mark(image, shifted(WIDE, 10.0), None)])
    assert "an unnamed reader" in found.stop.detail


def test_of_another_reader_the_mark_of_the_same_lesion_is_compared():
    image = frame()
    marks = [
        mark(image, WIDE),
        mark(image, (64.0, 20.0, 100.0, 60.0), OTHER),  # larger, another lesion
        mark(image, shifted(WIDE, 0.5), OTHER),
    ]
    found = told([image], marks)
    assert verdicts(found) == ["won", "outdone", "merged"]


def test_three_readers_are_averaged_together():
    image = frame()
    marks = [
        mark(image, WIDE),
        mark(image, shifted(WIDE, 3.0), OTHER),
        mark(image, shifted(WIDE, -3.0), "Third^Tom"),
    ]
    (one,) = chosen([image], marks, rules=MEAN)
    assert one.roi.box == WIDE


def test_the_names_of_many_readers_are_shortened_to_a_name():
    image = frame()
    marks = [
        mark(image, shifted(WIDE, 0.5 * n), f"{'Family' * 4}{n}^{'Given' * 4}")
        for n in range(4)
    ]
    (one,) = chosen([image], marks, rules=MEAN)
    assert len(one.roi.author) <= 64
    assert "^" not in one.roi.author


@pytest.mark.parametrize(
    "deciding", [{"adjudicator": True}, {"carrier": Carrier.MANUAL}]
)
def test_who_decides_between_readers_overrules_them(deciding):
    image = frame()
    small = (30.0, 30.0, 50.0, 50.0)
    marks = [mark(image, WIDE), mark(image, small, OTHER, **deciding)]
    found = told([image], marks)
    assert found.chosen[0].roi.box == small
    assert verdicts(found) == ["won", "outdone"]
    assert "only that counts. 1 other mark does not." in " ".join(found.chosen[0].why)
    assert {one.roi for one in found.marks} == set(marks)


def test_an_adjudicator_decides_on_the_side_that_was_adjudicated():
    left, right = frame(), frame(4, position=(-130.0, -60.0, 0.0))
    marks = [
        mark(left, BOX, OTHER, adjudicator=True),
        mark(left, WIDE),
        mark(right, WIDE),
    ]
    chosen_left, chosen_right = chosen([left, right], marks)
    assert (chosen_left.roi.box, chosen_right.roi.box) == (BOX, WIDE)


def test_two_adjudicators_may_disagree():
    image = frame()
    marks = [
        mark(image, WIDE, adjudicator=True),
        mark(image, iou_box(0.5), OTHER, adjudicator=True),
    ]
    assert told([image], marks).stop.reason is Reason.ROI_CONFLICT


def test_a_conflict_on_one_side_holds_the_study_and_explains_the_other():
    left, right = frame(), frame(4, position=(-130.0, -60.0, 0.0))
    marks = [
        mark(left, WIDE),
        mark(left, iou_box(0.5), OTHER),
        mark(right, WIDE),
    ]
    found = told([left, right], marks)
    assert found.stop.reason is Reason.ROI_CONFLICT
    assert found.chosen == ()
    assert found.sides[1].selection is not None
    assert found.marks[2].verdict is Verdict.WON
    with pytest.raises(StudyHeldError):
        chosen([left, right], marks)


def test_a_mark_on_a_key_slice_goes_before_a_larger_one():
    images = series_of_phases(phases=2)
    marks = [mark(images[0], WIDE), mark(images[1], BOX)]
    found = told(images, marks, keys=[key(images[4])])  # same slice, another phase
    assert found.chosen[0].roi.box == BOX
    assert "A key image singles out a slice of this side" in str(found.chosen[0].why)
    assert verdicts(found) == ["won", "outdone"]


def test_a_key_image_of_another_slice_changes_nothing():
    images = series_of_phases(phases=2)
    (one,) = chosen(images, [mark(images[0], WIDE)], keys=[key(images[2])])
    assert "key image" not in " ".join(one.why)


def test_a_key_image_alone_waits_for_a_rectangle_on_it():
    images = series_of_phases(phases=2)
    stop = told(images, [], keys=[key(images[2])]).stop
    assert stop.reason is Reason.NO_ROI
    assert f"A key image was found ({images[2].sop_instance_uid}" in stop.detail
    assert "a rectangle on it is needed" in stop.detail
