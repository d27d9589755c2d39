"""A live probability is that of one crop alone; that of bulk work says its batch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dicom_node import __version__
from dicom_node.errors import PermanentError
from tests import dicom_objects
from worker import computation, weights
from worker.cascade import (
    class_activation,
    feature_map,
    pooled,
    score,
    score_batch,
)
from worker.preprocess import to_input

BOXES = ((20.0, 30.0, 44.0, 50.0), (10.5, 12.25, 80.0, 70.0), (60.0, 5.0, 71.0, 90.0))

SCORE_ONE = """
import json, sys
from pathlib import Path
import torch
from tests import dicom_objects
from worker import computation, weights
from worker.cascade import score
from worker.preprocess import to_input

folder, number, boxes = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
computation.settle(torch.device("cpu"))
model = weights.load_stage(folder, torch.device("cpu"))
image = dicom_objects.pixels().astype("float32")
crop = to_input(image, boxes[number], model.manifest.preprocessing)
print(score(model, crop).probability.hex(), torch.get_num_threads())
"""


@pytest.fixture
def one_thread():
    """As a worker on a CPU computes."""
    before = torch.get_num_threads()
    computation.settle(torch.device("cpu"))
    yield
    torch.set_num_threads(before)


@pytest.fixture
def inputs(cascade) -> list[torch.Tensor]:
    image = dicom_objects.pixels().astype("float32")
    spec = cascade.sln.manifest.preprocessing
    return [to_input(image, box, spec) for box in BOXES]


def test_company_does_not_change_a_probability(cascade, inputs, one_thread):
    alone = [score(cascade.sln, x).probability for x in inputs]
    orders = [
        [score(cascade.sln, inputs[n]).probability for n in order]
        for order in ((2, 1, 0), (1, 1, 2), (0, 2, 0))
    ]

    assert orders == [
        [alone[n] for n in order] for order in ((2, 1, 0), (1, 1, 2), (0, 2, 0))
    ]


def test_every_forward_pass_holds_one_crop(cascade, inputs, one_thread):
    seen = []
    hook = cascade.sln.network.conv1.register_forward_pre_hook(
        lambda _module, given: seen.append(tuple(given[0].shape))
    )
    for x in inputs:
        score(cascade.sln, x)
    hook.remove()

    assert seen == [(1, 3, 64, 64)] * len(inputs)
    assert computation.describe(inputs[0], 1)["batch"] == "1x3x64x64"


def test_a_crop_alone_has_the_bits_that_it_always_had(cascade, inputs, one_thread):
    """Results that were recorded before passes were shared must still be replayed."""
    network = cascade.sln.network
    for x in inputs:
        batch = x[None].contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            features = feature_map(network, batch)
            cam, bias = class_activation(network, features)
            logit = float(cam.mean() + bias)

        scored = score(cascade.sln, x)

        assert scored.logit == logit
        assert scored.bias == float(bias)
        assert np.array_equal(scored.cam, cam[0].float().numpy())
        assert np.array_equal(scored.features, pooled(features)[0].numpy())


def test_a_batch_is_close_and_says_how_large_it_was(cascade, inputs, one_thread):
    """Why batch 1 is a promise of live work: in company the last bits may differ."""
    shared = score_batch(cascade.sln, inputs)

    for x, one in zip(inputs, shared, strict=True):
        same = score(cascade.sln, x)
        assert (same.batch, one.batch) == (1, 3)
        assert one.probability == pytest.approx(same.probability, abs=1e-5)
        np.testing.assert_allclose(one.cam, same.cam, atol=1e-4)
        np.testing.assert_allclose(one.features, same.features, atol=1e-4)


def test_a_crop_that_gives_no_number_is_alone_in_that(cascade, inputs):
    strange = torch.full((3, 64, 64), float("inf"))

    first, error, last = score_batch(cascade.sln, [inputs[0], strange, inputs[1]])

    assert isinstance(error, PermanentError)
    assert first.probability == pytest.approx(score(cascade.sln, inputs[0]).probability)
    assert last.probability == pytest.approx(score(cascade.sln, inputs[1]).probability)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_scores_a_batch_as_a_cpu_does(quick_models, cascade, inputs):
    device = torch.device("cuda")
    computation.settle(device)
    folder = next((quick_models / "untrained-sln").iterdir())
    model = weights.load_stage(folder, device)

    for one, x in zip(score_batch(model, inputs), inputs, strict=True):
        assert one.probability == pytest.approx(
            score(cascade.sln, x).probability, abs=1e-5
        )


def test_two_processes_give_the_same_bits(quick_models, cascade, inputs, one_thread):
    folder = next((quick_models / "untrained-sln").iterdir())
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCORE_ONE, str(folder), "1", json.dumps(BOXES)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    }

    here = score(cascade.sln, inputs[1]).probability
    assert printed == {f"{here.hex()} 1"}


def test_a_computation_is_described_by_what_its_bits_depend_on(inputs, one_thread):
    found = computation.describe(inputs[0], 1)

    assert found["torch_version"] == torch.__version__
    assert found["threads"] == 1
    assert found["code_version"] == __version__
    assert torch.backends.cpu.get_cpu_capability() in found["cpu"]
    assert found["cpu"] == computation.cpu_kind()


def test_a_machine_that_names_no_cpu_model_is_described_too(monkeypatch):
    monkeypatch.setattr(computation, "CPUINFO", Path("/nonexistent"))
    computation.cpu_kind.cache_clear()
    try:
        assert torch.backends.cpu.get_cpu_capability() in computation.cpu_kind()
    finally:
        computation.cpu_kind.cache_clear()
