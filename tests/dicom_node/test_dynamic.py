"""Phases x slices: order, copies of a time point, gaps, vendors' habits."""

import csv
from dataclasses import replace

import pytest

from dicom_node.dynamic import find
from dicom_node.errors import StudyHeldError
from dicom_node.images import read_study
from dicom_node.kinds import catalogue
from dicom_node.roi.reading import RoiReading
from dicom_node.selection import is_ready
from dicom_node.study import Reason
from tests import dicom_objects
from tests.mr_images import chosen, frame, mark, series_of_phases, told

ACCEPTED = frozenset({Reason.INCOMPLETE})


def dynamic(marked, images):
    return find(marked, catalogue(images))


def numbers(found):
    return [None if one is None else one.series_number for one in found.phases]


def held(images, marked, **options):
    stop = told(images, [mark(marked)], **options).stop
    assert stop is not None
    return stop


def test_a_whole_dynamic_series_has_no_gap():
    images = series_of_phases(phases=4, slices=5)
    found = dynamic(images[7], images)
    assert (numbers(found), found.gaps) == ([5, 7, 9, 11], ())
    assert found.told_by == "acquisition number"


def test_two_phases_of_one_slice_each_have_no_gap():
    images = series_of_phases(phases=2, slices=1)
    assert chosen(images, [mark(images[0])])[0].phase == "post-contrast 1"


def test_a_phase_that_lacks_slices_is_named_with_their_positions():
    images = series_of_phases(phases=3, slices=6)
    kept = [one for one in images if one not in (images[6 + 1], images[6 + 4])]
    stop = held(kept, kept[0])
    assert stop.reason is Reason.INCOMPLETE
    assert "Phase 2 of 3 (post-contrast 1, series 7) lacks 2 of 6 slices" in stop.detail
    assert "at +2.0 mm, +8.0 mm" in stop.detail


def test_many_missing_positions_are_counted_not_listed():
    images = series_of_phases(phases=2, slices=9)
    stop = held([*images[:9], images[9]], images[0])
    assert "lacks 8 of 9 slices" in stop.detail
    assert "and 4 more" in stop.detail


def test_the_marked_slice_itself_may_be_missing_in_the_wanted_phase():
    images = series_of_phases(phases=3, slices=3)
    kept = [one for one in images if one != images[3]]
    assert held(kept, images[0]).reason is Reason.INCOMPLETE
    waived = held(kept, images[0], accepted=ACCEPTED)
    assert waived.reason is Reason.INCOMPLETE
    assert "post-contrast 1, which lacks the marked slice" in waived.detail


def test_a_missing_early_phase_does_not_shift_the_later_ones():
    images = series_of_phases(phases=3, slices=3)
    kept = [one for one in images if one != images[0]]
    (one,) = chosen(kept, [mark(images[6])], accepted=ACCEPTED)
    assert one.sop_instance_uid == images[3].sop_instance_uid


def test_a_person_may_accept_gaps_elsewhere():
    images = series_of_phases(phases=3, slices=3)
    (one,) = chosen(images[:-1], [mark(images[0])], accepted=ACCEPTED)
    said = " ".join(one.why)
    assert "A person accepted" in said
    assert "Phase 3 of 3" in said


def test_phases_within_one_series_are_told_by_their_numbers():
    images = [
        frame(5, 2.0 * k, number=n + 1, series_uid="1.2.3.5", series_number=5)
        for n in range(3)
        for k in range(4)
    ]
    stop = held(images[:-1], images[0])
    assert "Phase 3 of 3 (post-contrast 2, series 5) lacks 1 of 4" in stop.detail


def test_frames_of_one_object_are_phases_too():
    images = [
        frame(
            5,
            2.0 * k,
            sop_instance_uid="1.2.3.5",
            frame=1 + 3 * n + k,
            temporal_position=n + 1,
            scanning_sequence=(),
            acquisition_number=1,
        )
        for n in range(3)
        for k in range(3)
    ]
    (one,) = chosen(images, [mark(images[7])])
    assert (one.sop_instance_uid, one.frame) == ("1.2.3.5", 5)
    stop = held(images[:5] + images[6:], images[0])
    assert "Phase 2 of 3" in stop.detail


@pytest.mark.parametrize(
    ("stated", "reason"), [(None, None), (3, None), (2, None), (4, Reason.INCOMPLETE)]
)
def test_the_header_may_state_how_many_phases_there_are(stated, reason):
    images = series_of_phases(temporal_positions=stated)
    stop = told(images, [mark(images[0])]).stop
    assert (stop and stop.reason) is reason
    if stop:
        assert "states 4 temporal positions; 3 are there" in stop.detail


def test_a_hole_in_the_temporal_positions_is_a_missing_phase():
    images = [
        replace(one, temporal_position={1: 1, 2: 2, 3: 4}[one.acquisition_number])
        for one in series_of_phases()
    ]
    assert "Temporal position 3 is missing" in held(images, images[0]).detail


def test_one_phase_alone_may_have_holes():
    images = [frame(5, z) for z in (0.0, 2.0, 4.0, 30.0, 32.0, 80.0)]
    assert chosen(images, [mark(images[3])])[0].phase == "as marked"


def test_slabs_of_one_scan_that_do_not_touch_are_not_compared():
    near = [frame(5, z, number=1) for z in (0.0, 2.0, 4.0)]
    far = [frame(7, z, number=2) for z in (60.0, 62.0)]
    assert chosen([*near, *far], [mark(near[0])])[0].phase == "as marked"


def test_another_protocol_of_another_size_is_no_gap():
    images = series_of_phases(phases=2, slices=4)
    other = [frame(40, 2.0 * k, repetition_time=9.0) for k in range(2)]
    assert chosen([*images, *other], [mark(images[0])])[0].phase == "post-contrast 1"


def test_slices_that_differ_in_number_and_in_nothing_else_cannot_be_named():
    images = [
        frame(5, 2.0 * k, number=10 * k + n, series_number=n)
        for k in range(3)
        for n in range(3)
    ]
    images = [replace(one, series_uid="1.2.3.5") for one in images]
    stop = held(images[:-1], images[0])
    assert "nothing tells which phase is missing" in stop.detail


def test_phases_may_be_shifted_by_less_than_half_a_slice():
    images = series_of_phases(phases=3, slices=4)
    moved = [
        replace(one, position=(20.0, -60.0, one.position[2] - 0.9))
        if one.series_number == 7
        else one
        for one in images
    ]
    found = dynamic(moved[1], moved)
    assert (numbers(found), found.gaps) == ([5, 7, 9], ())


def at_times(*times, **values):
    return [
        frame(5 + n, number=n + 1, clock=time, acquired=None, **values)
        for n, time in enumerate(times)
    ]


def test_a_repeat_of_a_time_point_is_not_a_phase():
    images = at_times(0.0, 60.0, 120.0)
    repeat = replace(
        images[1], sop_instance_uid="1.2.4", series_uid="1.2.4.1", series_number=6
    )
    images = [replace(one, series_number=2 * one.series_number) for one in images]
    (one,) = chosen([*images, repeat], [mark(images[0])], "post-2")
    assert one.sop_instance_uid == images[2].sop_instance_uid
    assert "Repeats of a time point" in " ".join(one.why)


def test_a_mark_on_a_repeat_moves_to_the_phase_that_it_repeats():
    images = at_times(0.0, 60.0, 120.0)
    repeat = replace(
        images[2], sop_instance_uid="1.2.4", series_uid="1.2.4.1", series_number=90
    )
    (one,) = chosen([*images, repeat], [mark(repeat)])
    assert one.sop_instance_uid == images[1].sop_instance_uid
    assert "a copy of one of 3 phases" in " ".join(one.why)


def test_a_clock_that_all_phases_share_leaves_the_order_to_the_numbers():
    images = at_times(100.0, 100.0, 100.0, 100.0)
    images = [replace(one, acquisition_number=1) for one in images]
    found = dynamic(images[0], images)
    assert (numbers(found), found.told_by) == ([5, 6, 7, 8], "series number")


def test_a_pre_contrast_scan_with_its_own_clock_comes_first():
    images = at_times(0.0, 100.0, 100.0, 100.0)
    images = [replace(one, acquisition_number=1) for one in images]
    found = dynamic(images[0], images)
    assert (numbers(found), found.told_by) == ([5, 6, 7, 8], "series number")


def test_numbers_that_run_against_the_clock_are_a_matter_for_a_person():
    images = at_times(200.0, 100.0, 100.0, 100.0)
    images = [replace(one, acquisition_number=1) for one in images]
    with pytest.raises(StudyHeldError) as caught:
        dynamic(images[0], images)
    assert caught.value.reason is Reason.PHASE_AMBIGUOUS


@pytest.mark.parametrize(
    "names",
    [
        ["ax dyn pre", "ax dyn 1st pass", "ax dyn 2nd pass", "ax dyn 3rd pass"],
        ["Ph1/Ax VIBRANT", "Ph2/Ax VIBRANT", "Ph3/Ax VIBRANT", "Ph4/Ax VIBRANT"],
        ["t1 nativ", "t1 km 1", "t1 km 2", "t1 km 3"],
        ["T1 dyn w/o contrast", "T1 dyn post 1", "T1 dyn post 2", "T1 dyn delayed"],
    ],
)
def test_what_hospitals_call_phases_makes_them_no_other_protocol(names):
    images = [
        frame(5 + n, number=n + 1, description=name) for n, name in enumerate(names)
    ]
    assert len(dynamic(images[0], images).phases) == 4


def test_another_protocol_on_the_same_grid_is_no_phase():
    images = [frame(5, description="t1 fs dyn"), frame(6, description="t1 dyn")]
    assert len(dynamic(images[0], images).phases) == 1


def test_a_subtraction_of_two_equal_scans_is_a_matter_for_a_person():
    fat_saturated = series_of_phases(description="t1 fs dyn")
    plain = [
        replace(
            one,
            description="t1 dyn",
            sop_instance_uid=one.sop_instance_uid + ".1",
            series_uid=one.series_uid + ".1",
        )
        for one in fat_saturated
    ]
    subtraction = frame(90, 2.0, image_type=("ORIGINAL", "PRIMARY", "SUB"))
    stop = held([*fat_saturated, *plain, subtraction], subtraction)
    assert stop.reason is Reason.PHASE_AMBIGUOUS


@pytest.mark.parametrize(
    ("change", "ready"),
    [
        (lambda images: images, True),
        (lambda images: images[:3], False),  # as marked: the phase is not there
        (lambda images: images[:-1], False),  # a gap
        (lambda images: [*images[:3], *images[6:]], False),  # one phase is to come
        (lambda images: [*images[:6]], True),  # later phases do not matter
        (
            lambda images: [replace(one, acquisition_number=None) for one in images],
            False,  # nothing says that no phase is missing in between
        ),
    ],
)
def test_a_study_is_ready_once_what_it_needs_is_there(change, ready):
    images = change(series_of_phases())
    objects = told_objects(images)
    assert is_ready(objects, RoiReading((mark(images[0]),)), "post-1") is ready
    assert not is_ready(objects, RoiReading())


def told_objects(images):
    return replace(read_study([]), images=tuple(images))


@pytest.fixture(scope="module")
def multiphase(real_data):
    folder = real_data / "breast-dce-mri/multiphase-study-d1f3d33d"
    return read_study(dicom_objects.stored_folder(folder)).images


def test_the_real_study_is_complete_and_ready(multiphase):
    marked = next(one for one in multiphase if one.series_number == 13)
    found = dynamic(marked, multiphase)
    assert (numbers(found), found.gaps) == ([8, 9, 13, 15, 17, 19], ())
    reading = RoiReading((mark(marked, (220.0, 140.0, 250.0, 170.0)),))
    assert is_ready(told_objects(multiphase), reading)


@pytest.mark.parametrize("series", [8, 9, 13, 15, 17, 19])
def test_one_slice_taken_from_any_real_phase_is_missed(multiphase, series):
    gone = [one for one in multiphase if one.series_number == series][4]
    kept = [one for one in multiphase if one != gone]
    marked = next(one for one in kept if one.series_number == 13)
    (sentence,) = dynamic(marked, kept).gaps
    assert f"series {series}) lacks 1 of 10 slices" in sentence


def test_the_real_slabs_have_no_gap(real_data):
    folder = real_data / "breast-dce-mri"
    rows = list(csv.DictReader((folder / "contours.csv").read_text().splitlines()))
    slabs = {row["patient_id"][:8] for row in rows}
    for patient in slabs:
        stored = dicom_objects.stored_folder(folder / "annotated-slabs" / patient)
        images = read_study(stored).images
        for one in images:
            assert dynamic(one, images).gaps == ()
