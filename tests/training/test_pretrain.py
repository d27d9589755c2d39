import hashlib

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open

from dicom_node.errors import SettingsError
from training import trunks
from training.__main__ import main
from training.config import DILATED, STOCK
from training.pretrain import READOUT, SPEC, Plan, pretrain
from training.procedural import DESCRIPTORS, draw

TINY = Plan(steps=4, dilated=1, cool_down=2, warm_up=1, batch=4, autocast=False)


def quiet(_):
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    told = []
    folder = tmp_path_factory.mktemp("whole")
    tensors = pretrain(TINY, folder / "a.checkpoint", told.append)
    return tensors, told


def test_the_same_plan_gives_the_same_bits_also_after_a_kill(whole, tmp_path):
    checkpoint = tmp_path / "b.checkpoint"
    pretrain(TINY, checkpoint, quiet, every=2, until=3)  # step 3 is lost
    with safe_open(checkpoint, framework="pt") as stored:
        assert stored.metadata()["step"] == "2"
    resumed = []
    again = pretrain(TINY, checkpoint, resumed.append)

    assert again.keys() == whole[0].keys()
    assert all(torch.equal(again[name], whole[0][name]) for name in again)
    assert [one.step for one in resumed] == [3, 4]
    assert resumed[-1].loss == whole[1][-1].loss


def test_another_seed_gives_another_trunk(whole, tmp_path):
    other = TINY.model_copy(update={"seed": 2})
    tensors = pretrain(other, tmp_path / "c.checkpoint", quiet)

    assert not torch.equal(tensors["conv1.weight"], whole[0]["conv1.weight"])


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    checkpoint = tmp_path / "d.checkpoint"
    pretrain(TINY, checkpoint, quiet, every=1, until=1)

    with pytest.raises(SettingsError, match="belongs to another run"):
        pretrain(TINY.model_copy(update={"seed": 3}), checkpoint, quiet)
    checkpoint.write_bytes(b"damaged")
    with pytest.raises(SettingsError, match="is not a checkpoint"):
        pretrain(TINY, checkpoint, quiet)


def test_the_process_is_left_as_it_was(whole):
    assert whole
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_network_ends_in_its_served_shape():
    assert [TINY.architecture(step) for step in range(4)] == [STOCK] * 3 + [DILATED]
    assert TINY.factor(3) == pytest.approx(0.5, abs=0.01)


def test_a_trunk_has_no_head_and_a_readout(whole):
    names = set(whole[0])

    assert not {name for name in names if name.startswith("fc.")}
    assert whole[0][f"{READOUT}weight"].shape == (len(DESCRIPTORS), 896)


def test_pictures_are_like_served_crops_and_follow_from_the_generator():
    first = draw(8, SPEC, torch.Generator().manual_seed(5))
    again = draw(8, SPEC, torch.Generator().manual_seed(5))

    assert first.crops.shape == (8, 70, 70)
    assert first.descriptors.shape == (8, len(DESCRIPTORS))
    assert torch.equal(first.crops, again.crops)
    assert first.crops.min() >= 0
    assert first.crops.max() <= 1
    assert (first.crops.std((1, 2)) > 0.05).all()  # something is there
    assert first.descriptors.abs().max() <= 1


def test_the_command_writes_what_it_says(tmp_path, monkeypatch):
    out = tmp_path / "trunk.safetensors"
    args = ["--steps", "2", "--batch", "4", "--no-autocast", "--out", str(out)]
    run = CliRunner().invoke(main, ["pretrain", *args])

    assert run.exit_code == 0, run.output
    digest = hashlib.sha256(out.read_bytes()).hexdigest()
    assert f"SHA-256 {digest}" in run.output
    assert [path.name for path in tmp_path.iterdir()] == ["trunk.safetensors"]
    assert trunks.initial_weights(out, digest)["conv1.weight"].dtype == torch.float32
