import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import resnet18

from dicom_node.errors import ModelIntegrityError, SettingsError
from training import trunks
from training.config import DEFAULT, PROCEDURAL, RANDOM
from training.learning import starting_weights
from training.trunks import initial_weights

MAX_SHIPPED_BYTES = 25_000_000


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_shipped_trunk_is_the_pinned_one_and_small():
    content = trunks.SHIPPED.read_bytes()

    assert hashlib.sha256(content).hexdigest() == trunks.SHIPPED_SHA256
    assert len(content) <= MAX_SHIPPED_BYTES
    assert load_file(trunks.SHIPPED)["conv1.weight"].dtype == torch.float16


def test_a_network_starts_from_the_shipped_trunk_and_keeps_its_head():
    weights = initial_weights(PROCEDURAL)
    head = starting_weights(DEFAULT, None)["fc.weight"]
    start = starting_weights(DEFAULT, weights)

    assert torch.equal(start["layer4.1.conv2.weight"], weights["layer4.1.conv2.weight"])
    assert torch.equal(start["fc.weight"], head)


def test_the_card_of_the_trunk_names_its_digest():
    card = trunks.SHIPPED.with_name("README.md").read_text()

    assert trunks.SHIPPED_SHA256 in card


def test_none_leaves_a_network_as_it_is():
    assert initial_weights(RANDOM) == {}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_with_imagenet_s_shape_is_accepted(tmp_path, suffix):
    path = tmp_path / f"resnet18{suffix}"
    state = resnet18().state_dict()  # 1000 classes
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    start = starting_weights(DEFAULT, initial_weights(path, digest(path)))

    assert torch.equal(start["conv1.weight"], state["conv1.weight"])


def test_a_file_of_unknown_bytes_is_refused(tmp_path):
    path = tmp_path / "resnet18.pth"
    torch.save({"a": torch.zeros(1)}, path)

    with pytest.raises(SettingsError, match="need its SHA-256"):
        initial_weights(path)
    with pytest.raises(ModelIntegrityError, match="has SHA-256"):
        initial_weights(path, "0" * 64)
    with pytest.raises(SettingsError, match="cannot be read"):
        initial_weights(tmp_path / "absent.pth", "0" * 64)
    with pytest.raises(SettingsError, match="no ResNet18"):
        starting_weights(DEFAULT, initial_weights(path, digest(path)))


class Code:
    def __reduce__(self):
        return print, ("this must never run",)


@pytest.mark.parametrize("content", ["code", "list", "damaged"])
def test_a_file_that_holds_no_tensors_is_refused(tmp_path, content, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"code": {"a": Code()}}.get(content, [1, 2]), path)
    if content == "damaged":
        path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(ModelIntegrityError, match=r"holds no"):
        initial_weights(path, digest(path))
    assert "never run" not in capsys.readouterr().out
