"""Rules of selection beyond the choice of the largest: site, carrier, explanation."""

from dataclasses import replace

import pytest
from pydicom import Dataset

from dicom_node.explanation import Verdict
from dicom_node.findings import Carrier
from dicom_node.images import StudyObjects
from dicom_node.roi.reading import RoiReading
from dicom_node.selection import Rules, explain
from dicom_node.study import Reason
from tests.mr_images import chosen, frame, mark, series_of_phases, told

RIGHT = (-150.0, -60.0, 0.0)


@pytest.mark.parametrize(("required", "stops"), [(False, False), (True, True)])
def test_a_site_may_demand_the_phase(required, stops):
    image = frame()
    found = told([image], [mark(image)], rules=Rules(require_phase=required))
    assert (found.stop is not None) is stops
    if found.stop is not None:
        assert found.stop.reason is Reason.NO_DCE_PHASE
        assert "demands post-contrast 1" in found.stop.detail


@pytest.mark.parametrize("carrier", ["SCOORD3D", "RTSTRUCT", "SEG"])
def test_a_mark_that_names_no_image_says_so(carrier):
    images = series_of_phases()
    placed = mark(images[1], by_position=True, carrier=Carrier(carrier))
    (one,) = chosen(images, [placed])
    assert one.sop_instance_uid == images[4].sop_instance_uid
    assert f"Its carrier ({carrier}) names no image" in " ".join(one.why)


def test_a_mark_of_the_reader_on_the_wrong_image_stays_there():
    images = series_of_phases()
    other = frame(1, 2.0, scanning_sequence=("SE",))
    assert told([other, *images], [mark(other)]).stop.reason is Reason.NO_DCE_PHASE


def test_a_mark_on_another_contrast_does_not_outdo_one_on_a_phase():
    images = series_of_phases()
    other = frame(1, 2.0, scanning_sequence=("SE",))
    large = mark(other, (5.0, 5.0, 60.0, 60.0))
    found = told([other, *images], [large, mark(images[1])])
    assert [one.verdict for one in found.marks] == [Verdict.WON, Verdict.RULED_OUT]
    assert found.marks[1].reason is Reason.NO_DCE_PHASE


@pytest.mark.parametrize(("home", "afar"), [("1.2.3", False), ("1.2.99", True)])
def test_a_mark_from_another_study_says_so(home, afar):
    image, document = frame(), Dataset()
    drawn = mark(image)
    document.SOPInstanceUID = drawn.carrier_sop_instance_uid
    document.StudyInstanceUID = home
    objects = StudyObjects((image,), (document,))
    (one,) = explain(objects, RoiReading((drawn,))).chosen
    assert ("The mark came in another study, 1.2.99" in " ".join(one.why)) is afar


@pytest.mark.parametrize(
    ("names", "stops"),
    [
        (["t1 pre", "t1 post 1", "t1 post 2"], False),
        (["t1 pre", "t1 dyn 1", "t1 dyn 2"], False),
        (["t1 pre/post", "t1 pre/post", "t1 pre/post"], False),
        (["t1 post", "t1 post", "t1 post"], False),  # says nothing of the first
        (["t1 post 1", "t1 post 2 delayed", "t1 post 3"], True),
        (["t1 pre 1", "t1 pre 2", "t1 post"], True),
        (["t1 dyn 1", "t1 pre", "t1 dyn 2"], True),
    ],
)
def test_descriptions_may_say_that_the_first_phase_is_not_the_first(names, stops):
    images = [
        frame(5 + n, number=n + 1, description=name) for n, name in enumerate(names)
    ]
    stop = told(images, [mark(images[0])]).stop
    assert (stop is not None) is stops
    if stop is not None:
        assert stop.reason is Reason.PHASE_AMBIGUOUS


PHASES = series_of_phases()
LATER = [
    replace(one, temporal_position=(one.acquisition_number or 0) + 1) for one in PHASES
]


@pytest.mark.parametrize(
    ("images", "values", "phase", "ask"),
    [
        (PHASES, {"sop_instance_uid": "1.2.3.99"}, "post-1", "send it, or mark one"),
        (PHASES, {"x0": 100.0, "x1": 140.0}, "post-1", "draw it inside"),
        (PHASES, {"x1": 22.0, "y1": 32.0}, "post-1", "draw it around the lesion"),
        ([frame(spacing=None)], {}, "post-1", "mark an image that does"),
        (PHASES, {}, "post-5", "send the others"),
        (LATER, {}, "post-1", "send it too"),
    ],
)
def test_a_reason_tells_what_to_do(images, values, phase, ask):
    stop = told(images, [mark(images[0], **values)], phase).stop
    assert stop is not None
    assert ask in stop.detail


def test_every_mark_is_explained_once_whatever_became_of_it():
    images = series_of_phases()
    right = frame(20, position=RIGHT, repetition_time=9.0)
    marks = [
        mark(images[1]),
        mark(images[4], (20.0, 30.0, 40.0, 50.0)),
        mark(images[0], (-30.0, 10.0, 20.0, 30.0)),
        mark(images[0], (10.0, 10.0, 12.0, 30.0)),
        mark(right),
        replace(mark(images[0]), sop_instance_uid="1.2.404"),
    ]
    found = told([*images, right], marks)
    assert {(one.roi.box, one.roi.sop_instance_uid) for one in found.marks} == {
        (one.box, one.sop_instance_uid) for one in marks
    }
    reasons = [one.reason for one in found.marks]
    assert reasons == [
        *(None, None),
        *(Reason.ROI_OUTSIDE_IMAGE, Reason.QUALITY),
        *(Reason.NO_DCE_PHASE, Reason.ROI_IMAGE_MISSING),
    ]
    assert all(one.why for one in found.marks)
    assert found.marks[-1].marked is None


def test_an_unknown_side_stops_the_study_and_leaves_the_others_undecided():
    images = series_of_phases()
    middle = frame(20, position=(-40.0, -60.0, 0.0), acquisition_number=9)
    found = told([*images[:1], middle], [mark(images[0]), mark(middle)])
    assert found.stop.reason is Reason.LATERALITY_UNKNOWN
    assert [one.verdict for one in found.marks] == [
        Verdict.UNDECIDED,
        Verdict.RULED_OUT,
    ]


def test_what_is_not_for_us_is_explained_too():
    found = told([frame(body_part="KNEE", study_description="")], [mark(frame())])
    assert found.stop is not None
    assert found.stop.ignored
    assert found.chosen == ()
    assert found.marks[0].verdict is Verdict.UNDECIDED


def test_the_order_of_the_phases_is_part_of_the_reasons():
    images = series_of_phases()
    found = told(images, [mark(images[0])])
    assert found.sides[0].phases == (images[0], images[3], images[6])
    assert found.sides[0].told_by == "acquisition number"
    said = "The acquisition number tells the order of the phases."
    assert said in found.chosen[0].why


@pytest.mark.parametrize(
    "later",
    [
        lambda _: {"image_type": ("DERIVED", "PRIMARY")},
        lambda phase: {"frame_of_reference_uid": f"1.2.99.{phase}"},
    ],
    ids=["derived", "another frame of reference"],
)
def test_the_first_phase_is_not_taken_for_the_only_one(later):
    images = [
        frame(3 + phase, 2.0 * k, number=phase + 1, **(later(phase) if phase else {}))
        for phase in range(3)
        for k in range(3)
    ]
    stop = told(images, [mark(images[1])]).stop
    assert stop.reason is Reason.PHASE_AMBIGUOUS
    assert "2 other image(s) at its position could be its phases" in stop.detail
    by_hand = mark(images[1], carrier=Carrier.MANUAL)
    assert chosen(images, [by_hand])[0].sop_instance_uid == images[1].sop_instance_uid
