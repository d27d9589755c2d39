"""The picture of marks and choice: it shows every rectangle, and nobody's name."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageChops

from dicom_node.explanation import Verdict
from dicom_node.report import marks
from dicom_node.report.marks import COLOURS
from tests.dicom_objects import pixels
from tests.mr_images import frame, mark, series_of_phases, told

WIDE = (20.0, 20.0, 60.0, 60.0)


def slice_of(image):
    return pixels(image.rows, image.columns).astype(np.float32)


def colours(picture: Image.Image) -> set[tuple[int, int, int]]:
    found = picture.getcolors(maxcolors=1 << 24)
    return {colour for count, colour in found if count > 40}


@pytest.fixture
def contested():
    images = series_of_phases()
    return told(
        images,
        [
            mark(images[1], WIDE),
            mark(images[1], (30.0, 30.0, 50.0, 50.0)),
            mark(images[4], (20.5, 20.0, 60.0, 60.0), "Other^Otto"),
            mark(images[0], (-30.0, 10.0, 20.0, 30.0)),
        ],
    )


def test_each_verdict_has_its_colour(contested):
    assert {one.verdict for one in contested.marks} == {
        *(Verdict.WON, Verdict.OUTDONE, Verdict.MERGED, Verdict.RULED_OUT)
    }
    seen = colours(marks.draw(contested, slice_of))
    for one in contested.marks:
        assert COLOURS[one.verdict] in seen


def test_a_held_study_shows_its_marks_and_no_choice():
    image = frame()
    found = told([image], [mark(image, WIDE), mark(image, (20, 20, 40, 60), "B^B")])
    seen = colours(marks.draw(found, slice_of))
    assert COLOURS[Verdict.UNDECIDED] in seen
    assert COLOURS[Verdict.WON] not in seen


def test_names_and_identifiers_are_not_in_the_picture(contested):
    other = [
        replace(
            one,
            roi=replace(one.roi, author="Someone^Else", label="Secret"),
            why="Someone Else",
        )
        for one in contested.marks
    ]
    changed = replace(contested, marks=tuple(other))
    one, two = (marks.draw(found, slice_of) for found in (contested, changed))
    assert ImageChops.difference(one, two).getbbox() is None


def test_what_cannot_be_decoded_or_is_not_there_is_said_not_raised():
    image = frame()
    found = told(
        [image], [mark(image), replace(mark(image), sop_instance_uid="1.2.404")]
    )
    assert marks.draw(found, lambda _: None).height > 480
    nothing = told([image], [])
    assert marks.draw(nothing, slice_of).width > 900


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (2.0, 0.5), None])
def test_pixels_need_not_be_square(spacing):
    image = frame(spacing=spacing)
    picture = marks.draw(told([image], [mark(image, WIDE)]), slice_of)
    assert picture.width < 3 * 480 + 4 * 16 + 1
