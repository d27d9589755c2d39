"""Pixels and millimetres, for any orientation, spacing and origin."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_node.geometry import Plane
from dicom_node.images import read_study
from dicom_node.roi import read_rois
from tests import dicom_objects, roi_objects
from tests.dicom_objects import mr_slice

angles = st.floats(-180, 180).map(lambda degrees: round(degrees, 3))
spacings = st.floats(0.3, 3.0).map(lambda mm: round(mm, 4))
origins = st.floats(-300, 300).map(lambda mm: round(mm, 3))
edges = st.floats(0, 90).map(lambda pixels: round(pixels, 2))
sides = st.floats(4, 60).map(lambda pixels: round(pixels, 2))
boxes = st.builds(
    lambda x, y, width, height: (x, y, x + width, y + height),
    edges, edges, sides, sides,
)  # fmt: skip
CARDINAL = {
    "axial": [1, 0, 0, 0, 1, 0],
    "sagittal": [0, 1, 0, 0, 0, -1],
    "coronal": [1, 0, 0, 0, 0, -1],
    "axial, feet first prone": [-1, 0, 0, 0, -1, 0],
}


def rotation(first: float, second: float, third: float) -> list[float]:
    """The first two columns of a rotation by three angles in degrees."""
    a, b, c = np.radians([first, second, third])
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = z @ y @ x
    return [round(one, 8) for one in (*matrix[:, 0], *matrix[:, 1])]


orientations = st.one_of(
    st.sampled_from(list(CARDINAL.values())),
    st.builds(rotation, angles, angles, angles),
)
grids = st.builds(
    lambda orientation, rows, columns, origin: {
        "ImageOrientationPatient": orientation,
        "PixelSpacing": [rows, columns],
        "position": origin,
    },
    orientations, spacings, spacings, st.tuples(origins, origins, origins),
)  # fmt: skip
often = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def known(image, tmp_path):
    return read_study(dicom_objects.store(tmp_path, [image])).images


@often
@given(grid=grids, box=boxes)
@pytest.mark.parametrize("named", [True, False])
def test_a_rectangle_in_the_patient_comes_back(tmp_path, named, grid, box):
    image = mr_slice(**grid)
    images = known(image, tmp_path)
    report = roi_objects.scoord3d_rectangle(image, box, named=named)
    outline = roi_objects.rtstruct_rectangle(image, box, named=named, decimals=5)
    for document in (report, outline):
        (roi,) = read_rois([document], images).rois
        assert roi.box == pytest.approx(box, abs=0.01)
        assert roi.exact
        assert roi.by_position is not named


@often
@given(grid=grids, box=boxes)
def test_a_mask_in_the_patient_comes_back(tmp_path, grid, box):
    image = mr_slice(**grid)
    seg = roi_objects.without_sources(roi_objects.seg_rectangle(image, box))
    (roi,) = read_rois([seg], known(image, tmp_path)).rois
    x0, y0, x1, y1 = roi_objects.whole(box)
    assert roi.box == (x0, y0, min(x1, image.Columns), min(y1, image.Rows))


@given(grid=grids, points=st.lists(st.tuples(edges, edges), min_size=1, max_size=5))
def test_to_the_patient_and_back_is_where_it_was(grid, points):
    plane = Plane(
        grid["position"],
        tuple(grid["ImageOrientationPatient"]),
        tuple(grid["PixelSpacing"]),
    )
    there = plane.to_patient(points)
    np.testing.assert_allclose(plane.to_pixels(there), points, atol=1e-6)
    np.testing.assert_allclose(plane.distances(there), 0, atol=1e-6)


def test_the_position_is_the_centre_of_the_first_pixel():
    plane = Plane((10.0, 20.0, 30.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), (2.0, 3.0))
    assert plane.to_patient([(0.5, 0.5)]).tolist() == [[10.0, 20.0, 30.0]]
    assert plane.to_patient([(1.5, 0.5)]).tolist() == [[10.0, 23.0, 30.0]]
    assert plane.to_patient([(0.5, 1.5)]).tolist() == [[10.0, 20.0, 28.0]]
    assert plane.distances([(12.0, 0.0, 0.0)]).tolist() == [-2.0]
