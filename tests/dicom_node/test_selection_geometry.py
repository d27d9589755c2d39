"""Wherever and however a breast was scanned, the same place gives the same choice."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dicom_node.candidates import MIDLINE_MM
from dicom_node.errors import StudyHeldError
from dicom_node.findings import Laterality
from dicom_node.planes import corners, to_patient, to_pixels
from dicom_node.selection import Rules
from dicom_node.study import Reason
from tests.mr_images import chosen, frame, mark, told

AXIAL = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
FEET_FIRST = np.array([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
SAGITTAL = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])
CORONAL = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])

angles = st.floats(-0.4, 0.4)
lengths = st.floats(0.4, 2.5)
places = st.tuples(*[st.floats(-150.0, 150.0)] * 3)
edges = st.tuples(st.integers(0, 80), st.integers(0, 70))
sizes = st.tuples(st.integers(5, 30), st.integers(5, 25))
planes = st.sampled_from([AXIAL, FEET_FIRST, SAGITTAL, CORONAL])


def rotated(plane, turns):
    """A plane, turned about the three axes of the patient: orthonormal to rounding."""
    x, y, z = turns
    about = [
        [[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]],
        [[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]],
        [[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]],
    ]
    turned = plane
    for one in about:
        turned = turned @ np.array(one).T
    return tuple(round(float(v), 9) for v in turned.ravel())


@st.composite
def scans(draw):
    """Three phases of three slices, anywhere, and a box of whole pixels on one."""
    orientation = rotated(draw(planes), draw(st.tuples(angles, angles, angles)))
    spacing, step = (draw(lengths), draw(lengths)), draw(lengths)
    origin = np.array(draw(places))
    normal = np.cross(orientation[:3], orientation[3:])
    images = [
        replace(
            frame(5 + 2 * n, float(k), number=n + 1),
            orientation=orientation,
            spacing=spacing,
            thickness=step,
            position=tuple(float(v) for v in origin + k * step * normal),
        )
        for n in range(3)
        for k in range(3)
    ]
    (x, y), (width, height) = draw(edges), draw(sizes)
    return images, (float(x), float(y), float(x + width), float(y + height))


@settings(max_examples=60, deadline=None)
@given(scans(), st.integers(0, 8))
def test_area_side_and_phase_follow_the_patient(scan, place):
    images, box = scan
    marked = images[place]
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    x = to_patient(marked, [centre])[0, 0]
    if abs(x) < MIDLINE_MM:
        with pytest.raises(StudyHeldError) as caught:
            chosen(images, [mark(marked, box)])
        assert caught.value.reason is Reason.LATERALITY_UNKNOWN
        return
    (one,) = chosen(images, [mark(marked, box)])
    width, height = box[2] - box[0], box[3] - box[1]
    down, along = marked.spacing
    assert one.area_mm2 == pytest.approx(width * along * height * down)
    assert one.laterality is (Laterality.LEFT if x > 0 else Laterality.RIGHT)
    assert one.sop_instance_uid == images[3 + place % 3].sop_instance_uid
    assert one.phase == "post-contrast 1"


@settings(max_examples=40, deadline=None)
@given(scans(), st.integers(0, 2), st.integers(0, 2))
def test_readers_are_compared_alike_in_every_plane(scan, one_phase, other_phase):
    images, box = scan
    marks = [
        mark(images[3 * one_phase], box),
        mark(images[3 * other_phase], (box[0] + 2.0, *box[1:]), "Other^Otto"),
    ]
    found = told(images, marks, rules=Rules(readers="mean"))
    assume(found.stop is None or found.stop.reason is not Reason.LATERALITY_UNKNOWN)
    width = box[2] - box[0]
    if (width - 2) / width >= 0.7:
        assert found.chosen[0].roi.box == pytest.approx((box[0] + 1.0, *box[1:]))
    elif found.sides[0].stop is not None:
        assert found.stop.reason is Reason.ROI_CONFLICT
        assert f"IoU {(width - 2) / width:.2f}" in found.stop.detail


@settings(max_examples=40, deadline=None)
@given(scans(), st.integers(0, 8))
def test_a_missing_slice_is_found_in_every_plane(scan, gone):
    images, box = scan
    kept = [one for n, one in enumerate(images) if n != gone]
    stop = told(kept, [mark(kept[(gone + 1) % 8], box)]).stop
    assume(stop is None or stop.reason is not Reason.LATERALITY_UNKNOWN)
    assert stop is not None
    assert stop.reason is Reason.INCOMPLETE
    assert f"Phase {gone // 3 + 1} of 3" in stop.detail


@settings(max_examples=60, deadline=None)
@given(scans())
def test_pixels_and_patient_are_two_views_of_one_point(scan):
    images, box = scan
    there = to_patient(images[0], corners(box))
    back = to_pixels(images[0], there)
    assert back[:, :2] == pytest.approx(np.array(corners(box)), abs=1e-4)
    assert back[:, 2] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(
    ("x", "side"), [(60.0, "L"), (20.0, "L"), (19.9, None), (-20.0, "R"), (0.0, None)]
)
def test_a_sagittal_slice_lies_on_one_side_whole(x, side):
    image = frame(orientation=tuple(SAGITTAL.ravel()), position=(x, -60.0, 50.0))
    stop = told([image], [mark(image)]).stop
    if side is None:
        assert stop.reason is Reason.LATERALITY_UNKNOWN
    else:
        assert chosen([image], [mark(image)])[0].laterality == side


def test_two_breasts_scanned_apart_are_two_slabs():
    images = [
        replace(
            frame(5 + 2 * n, float(x), number=n + 1),
            orientation=tuple(SAGITTAL.ravel()),
            position=(x, -60.0, 50.0),
        )
        for n in range(3)
        for x in (-64.0, -62.0, -60.0, 60.0, 62.0, 64.0)
        if not (n == 2 and x < 0)  # the right breast was scanned twice only
    ]
    left = next(one for one in images if one.position[0] == 62.0)
    right = next(one for one in images if one.position[0] == -62.0)
    assert [one.laterality for one in chosen(images, [mark(left), mark(right)])] == [
        "L",
        "R",
    ]
