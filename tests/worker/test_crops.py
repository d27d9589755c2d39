"""What is kept of a slice gives the network the same bits as the slice."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dicom_node.errors import StudyHeldError, UnreadableObjectError
from tests import dicom_objects
from worker import crops
from worker.crops import Crop
from worker.manifest import Preprocessing
from worker.preprocess import to_input

SPEC = Preprocessing(mean=0.3, sd=0.2)
IMAGE = dicom_objects.pixels().astype(np.float32) * 1.37 - 250.0
ROWS, COLUMNS = IMAGE.shape

x_edges = st.floats(-30, COLUMNS + 30)
y_edges = st.floats(-30, ROWS + 30)


@given(
    x=st.tuples(x_edges, x_edges).map(sorted), y=st.tuples(y_edges, y_edges).map(sorted)
)
@settings(max_examples=200, deadline=None)
def test_a_crop_gives_the_same_bits_as_its_slice(x, y):
    box = (x[0], y[0], x[1], y[1])
    try:
        expected = to_input(IMAGE, box, SPEC)
    except StudyHeldError:
        assume(False)  # nothing of it in the image, or no contrast

    kept = crops.decode(crops.encode(crops.cut(IMAGE, box)))

    assert torch.equal(to_input(kept.pixels, kept.box, SPEC), expected)


def test_equal_crops_have_equal_bytes():
    crop = crops.cut(IMAGE, (20.5, 30.25, 44.0, 50.0))

    assert crops.encode(crop) == crops.encode(Crop(crop.pixels.copy(), crop.box))
    assert crop.pixels.shape == (20, 24)
    assert crop.box == (0.5, 0.25, 24.0, 20.0)


def test_a_crop_names_nobody_and_no_slice():
    content = crops.encode(crops.cut(IMAGE, (20.5, 30.25, 44.0, 50.0)))

    assert len(content) < 24 * 20 * 4 + 300


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"pixels",
        b"\xff" * 64,
        crops.encode(crops.cut(IMAGE, (20, 30, 44, 50)))[:-1],
        crops.encode(crops.cut(IMAGE.astype(np.float64), (20, 30, 44, 50))),
    ],
)
def test_bytes_that_are_no_crop_are_refused(content):
    with pytest.raises(UnreadableObjectError, match="crop"):
        crops.decode(content)
