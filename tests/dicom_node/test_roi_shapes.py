import pytest

from dicom_node.roi.shapes import NotARectangleError, rectangle

BOX = (2.0, 3.0, 12.0, 9.0)
CORNERS = [(2, 3), (12, 3), (12, 9), (2, 9)]


def flat(points):
    return [edge for point in points for edge in point]


@pytest.mark.parametrize(
    "order",
    [(0, 1, 2, 3), (0, 1, 2, 3, 0), (0, 1, 3, 2, 0), (2, 1, 0, 3, 2), (3, 2, 1, 0, 3)],
)
def test_corners_in_any_order_make_a_rectangle(order):
    assert rectangle(flat(CORNERS[n] for n in order)) == BOX


def test_rounding_by_a_viewer_is_forgiven():
    assert rectangle([2, 3, 12.1, 3.1, 12, 9, 2, 8.9, 2, 3]) == (2, 3, 12.1, 9)


@pytest.mark.parametrize(
    ("points", "named"),
    [
        ([], "outline of 0 points"),
        ([(2, 3)], "a point"),
        ([(2, 3), (12, 9)], "a line"),
        ([(2, 3), (12, 9), (2, 9)], "outline of 3 points"),
        ([*CORNERS, (5, 5)], "open line"),
        ([*CORNERS, (5, 5), (2, 3)], "outline of 6 points"),
        ([(7, 0), (14, 6), (7, 12), (0, 6), (7, 0)], "do not follow the pixels"),
        ([(2, 3), (12, 3), (2, 3), (12, 3), (2, 3)], "without area"),
        ([(2, 3), (12, 3), (12, 9), (12, 9), (2, 3)], "do not follow the pixels"),
    ],
)
def test_other_figures_are_named(points, named):
    with pytest.raises(NotARectangleError, match=named):
        rectangle(flat(points))


def test_an_odd_count_of_numbers_is_no_figure():
    with pytest.raises(NotARectangleError):
        rectangle([*flat(CORNERS), 5.0])
