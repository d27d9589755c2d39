from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worker import cam, cascade
from worker.cascade import StageModel
from worker.manifest import Architecture, Calibration, Preprocessing
from worker.preprocess import to_input

SPEC = Preprocessing(mean=0.25, sd=0.17)
BOX = (80.3, 60.7, 150.2, 110.1)  # crop: columns 80-150, rows 60-110
SHAPE = (200, 260)
CELL_X, CELL_Y = 71 * 8 / 70, 51 * 8 / 70  # one cell of the map, in slice pixels


@pytest.fixture(scope="module")
def brightness_model():
    """A ResNet18 whose only active channel carries smoothed brightness.

    Every stride, padding, dilation and skip is that of the served network; the
    weights are chosen by hand so that the right answer is known.
    """
    network = cascade.build_network(Architecture()).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                side = module.kernel_size[0]
                bump = torch.hann_window(side + 2, periodic=False)[1:-1]
                kernel = torch.outer(bump, bump)
                module.weight.zero_()
                module.weight[0, 0] = kernel / kernel.sum()
        network.fc.weight.zero_()
        network.fc.weight[cascade.POSITIVE, 0] = 1.0
        network.fc.bias.zero_()
    manifest = SimpleNamespace(calibration=Calibration(slope=1, intercept=0))
    return StageModel(network, manifest, torch.device("cpu"))


def slice_with_blob(x, y, sigma=4.0):
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    distance = (columns - x) ** 2 + (rows - y) ** 2
    return (100 + 900 * np.exp(-distance / (2 * sigma**2))).astype(np.float32)


def peak_of_heat(model, x, y):
    score = cascade.score(model, to_input(slice_with_blob(x, y), BOX, SPEC))
    heat = cam.place(score.cam, BOX, SHAPE, SPEC)
    row, column = np.unravel_index(np.nanargmax(heat), SHAPE)
    return column + 0.5, row + 0.5


def test_a_bright_blob_that_moves_takes_the_peak_along(brightness_model):
    shifts = []
    for x in np.linspace(88, 144, 6):
        for y in np.linspace(65, 105, 4):
            peak_x, peak_y = peak_of_heat(brightness_model, x, y)
            shifts.append(((peak_x - x) / CELL_X, (peak_y - y) / CELL_Y))

    shifts = np.array(shifts)
    assert np.abs(shifts).max() <= 1  # within one cell, everywhere
    assert np.abs(shifts.mean(axis=0)).max() < 0.2  # and to no side


def test_cells_are_centred_where_the_strides_sample_the_input(brightness_model):
    cells = []
    for n in (2, 4):  # pixel 8n of the input, seen from every side
        x = torch.zeros(3, 64, 64)
        x[:, 8 * n, 8 * n] = 1
        heat = cascade.score(brightness_model, x).cam
        cells.append(np.unravel_index(heat.argmax(), heat.shape))

    assert cells == [(2, 2), (4, 4)]


def test_the_map_keeps_its_unit_and_lies_in_the_centre_of_the_rectangle():
    heat = cam.place(np.full((8, 8), -0.75, np.float32), BOX, SHAPE, SPEC)
    rows, columns = np.nonzero(np.isfinite(heat))

    assert heat.shape == SHAPE
    assert heat.dtype == np.float32
    assert set(np.unique(heat[np.isfinite(heat)])) == {np.float32(-0.75)}
    # 3 of 70 crop pixels are 3.04 columns and 2.19 rows of this rectangle
    assert (columns.min(), columns.max()) == (80 + 3, 151 - 4)
    assert (rows.min(), rows.max()) == (60 + 2, 111 - 3)


def test_a_map_is_never_stretched():
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    weak = cam.place(ramp * 0.01, BOX, SHAPE, SPEC)
    strong = cam.place(ramp, BOX, SHAPE, SPEC)

    np.testing.assert_allclose(weak, strong * 0.01, rtol=1e-5)
    assert np.nanmin(strong) == 0
    assert np.nanmax(strong) == 7


def test_between_cells_the_map_is_linear():
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))
    heat = cam.place(ramp, (0.0, 0.0, 70.0, 70.0), (70, 70), SPEC)
    inside = heat[10, 3:60]  # input pixels 0..56

    np.testing.assert_allclose(inside, np.arange(57) / 8, atol=1e-6)
    assert (heat[10, 60:67] == 7).all()


def test_rows_and_columns_are_not_swapped():
    only = np.zeros((8, 8), np.float32)
    only[1, 6] = 1
    heat = cam.place(only, (0.0, 0.0, 70.0, 70.0), (70, 70), SPEC)

    assert np.unravel_index(np.nanargmax(heat), heat.shape) == (3 + 8, 3 + 48)


def test_a_clipped_rectangle_is_placed_where_the_crop_was():
    heat = cam.place(
        np.ones((8, 8), np.float32), (-30.0, 150.0, 40.0, 230.0), SHAPE, SPEC
    )
    rows, columns = np.nonzero(np.isfinite(heat))

    assert (columns.min(), columns.max()) == (2, 37)
    assert (rows.min(), rows.max()) == (152, 197)


@pytest.mark.parametrize("side", [2.0, 4.0, 7.0])
def test_even_the_smallest_rectangle_shows_heat(side):
    heat = cam.place(
        np.ones((8, 8), np.float32), (5.0, 5.0, 5 + side, 5 + side), SHAPE, SPEC
    )

    assert np.isfinite(heat).any()
