"""A stored probability is that of one crop alone, whoever was scored beside it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dicom_node import __version__
from tests import dicom_objects
from worker import computation
from worker.cascade import class_activation, feature_map, score
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
    assert computation.describe(inputs[0])["batch"] == "1x3x64x64"


def test_a_batch_would_be_close_and_is_not_what_is_stored(cascade, inputs, one_thread):
    """Why batch 1 is a promise: in company the last bits may differ."""
    network = cascade.sln.network
    batch = torch.stack(inputs).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        cam, bias = class_activation(network, feature_map(network, batch))
        logits = cam.mean(dim=(1, 2)) + bias

    alone = torch.tensor([score(cascade.sln, x).logit for x in inputs])
    torch.testing.assert_close(logits.float(), alone.float(), atol=1e-4, rtol=1e-4)


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
    found = computation.describe(inputs[0])

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
