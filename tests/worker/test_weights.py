import hashlib
import io
import pickle
import shutil
from datetime import UTC, datetime

import pytest
import torch
from safetensors.torch import save

from dicom_node.errors import ModelIntegrityError, SettingsError
from dicom_node.findings import Proportion, Stage
from worker import cascade, models
from worker import manifest as manifests
from worker.manifest import (
    Architecture,
    Calibration,
    FeatureGate,
    Manifest,
    OperatingThreshold,
    Performance,
    Preprocessing,
    QualityGate,
    TrainingRecord,
)
from worker.outcomes import Activation
from worker.weights import FEATURE_MEAN, WHITENING, load_stage

CPU = torch.device("cpu")


def write_model(folder, tensors):
    content = save(tensors)
    (folder / "model.safetensors").write_bytes(content)
    manifest = Manifest(
        name="resnet18-sln",
        version="1",
        stage=Stage.SLN,
        architecture=Architecture(),
        preprocessing=Preprocessing(mean=0.25, sd=0.17),
        calibration=Calibration(slope=1.0, intercept=0.0),
        operating_threshold=OperatingThreshold(value=0.5, how="fixed"),
        performance=Performance(
            dataset="none",
            n=2,
            auc=0.5,
            auc_low=0.0,
            auc_high=1.0,
            sensitivity=Proportion.wilson(1, 1),
            specificity=Proportion.wilson(1, 1),
            positives=(0.9,),
            negatives=(0.1,),
        ),
        heat_range=(-1.0, 1.0),
        weights_sha256=hashlib.sha256(content).hexdigest(),
        trained_on="nothing",
        training=TrainingRecord(
            preset="demo", seed=0, threads=1, config={}, libraries={}
        ),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    manifests.write(folder, manifest)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return cascade.build_network(Architecture()).eval()


def test_a_loaded_stage_scores_as_the_network_that_was_saved(network, tmp_path):
    write_model(tmp_path, network.state_dict())
    x = torch.randn(3, 64, 64)
    model = load_stage(tmp_path, CPU)
    with torch.inference_mode():
        expected = cascade.logit_difference(network(x[None])).item()

    assert cascade.score(model, x).logit == pytest.approx(expected, abs=1e-5)
    assert model.manifest.stage is Stage.SLN
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())


def test_loading_does_not_touch_the_random_state(network, tmp_path):
    write_model(tmp_path, network.state_dict())
    before = torch.get_rng_state()
    load_stage(tmp_path, CPU)

    assert torch.equal(torch.get_rng_state(), before)


def test_a_digest_mismatch_stops(network, tmp_path):
    write_model(tmp_path, network.state_dict())
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit
    path.write_bytes(content)

    with pytest.raises(ModelIntegrityError, match="SHA-256"):
        load_stage(tmp_path, CPU)


def test_weights_of_another_network_stop(tmp_path):
    write_model(tmp_path, {"fc.weight": torch.zeros(2, 512)})

    with pytest.raises(ModelIntegrityError, match="resnet18"):
        load_stage(tmp_path, CPU)


def test_a_pickle_is_not_read(tmp_path):
    write_model(tmp_path, {"fc.weight": torch.zeros(2, 512)})
    content = b"\x80\x04\x95not a safetensors file"
    (tmp_path / "model.safetensors").write_bytes(content)
    manifest = manifests.read(tmp_path).model_copy(
        update={"weights_sha256": hashlib.sha256(content).hexdigest()}
    )
    manifests.write(tmp_path, manifest)

    with pytest.raises(ModelIntegrityError, match="does not fit"):
        load_stage(tmp_path, CPU)


def pin(folder, content):
    """Put bytes in the place of the weights, and their digest into the manifest."""
    (folder / "model.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifests.write(
        folder, manifests.read(folder).model_copy(update={"weights_sha256": digest})
    )


class Bomb:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def torch_file(tensors):
    stream = io.BytesIO()
    torch.save(tensors, stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda _: pickle.dumps(Bomb()), id="pickle"),
        pytest.param(lambda _: torch_file({"x": Bomb()}), id="pt with code"),
        pytest.param(torch_file, id="pt with the right weights"),
        pytest.param(lambda _: b"", id="nothing"),
        pytest.param(lambda _: b"\xff" * 8 + b"{}", id="a header that is too long"),
    ],
)
def test_no_format_but_safetensors_is_read_whatever_the_manifest_says(
    network, tmp_path, content
):
    write_model(tmp_path, network.state_dict())
    pin(tmp_path, content(network.state_dict()))
    with pytest.raises(ModelIntegrityError, match="does not fit"):
        load_stage(tmp_path, CPU)
    with pytest.raises(ModelIntegrityError, match="no safetensors file"):
        models.verify(tmp_path)
    with pytest.raises(ModelIntegrityError, match="no safetensors file"):
        models.install(tmp_path, tmp_path / "models")


@pytest.mark.parametrize("swapped", ["weights", "folder"])
def test_a_link_to_other_weights_is_found(network, tmp_path, swapped):
    """By the manifest, and where that was swapped too by what a person activated."""
    ours, theirs = tmp_path / "m" / "1", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir(parents=True)
    write_model(ours, network.state_dict())
    activated = Activation(
        *(1, Stage.SLN, "m", "1", manifests.read(ours).weights_sha256),
        *(datetime(2026, 1, 1, tzinfo=UTC), "anna"),
    )
    other = {name: torch.zeros_like(one) for name, one in network.state_dict().items()}
    write_model(theirs, other)
    if swapped == "weights":
        (ours / "model.safetensors").unlink()
        (ours / "model.safetensors").symlink_to(theirs / "model.safetensors")
        with pytest.raises(ModelIntegrityError, match="SHA-256"):
            load_stage(ours, CPU)
    else:
        shutil.rmtree(ours)
        ours.symlink_to(theirs)
        found = load_stage(ours, CPU).manifest
        with pytest.raises(ModelIntegrityError, match="activated were"):
            models.check_activated(found, activated)


def test_a_model_that_changes_while_it_is_installed_is_not_installed(
    network, tmp_path, monkeypatch
):
    source = tmp_path / "source"
    source.mkdir()
    write_model(source, network.state_dict())
    copy = shutil.copytree

    def copied(where, target):
        copy(where, target)
        with (target / "model.safetensors").open("ab") as stream:
            stream.write(b"x")

    monkeypatch.setattr(models.shutil, "copytree", copied)
    with pytest.raises(ModelIntegrityError):
        models.install(source, tmp_path / "models")
    assert not (tmp_path / "models" / "resnet18-sln" / "1").exists()


def test_missing_weights_are_an_error_of_settings(network, tmp_path):
    write_model(tmp_path, network.state_dict())
    (tmp_path / "model.safetensors").unlink()

    with pytest.raises(SettingsError, match=r"model\.safetensors cannot be read"):
        load_stage(tmp_path, CPU)


def test_statistics_of_features_are_read_from_beside_the_network(network, tmp_path):
    tensors = dict(network.state_dict())
    tensors[FEATURE_MEAN], tensors[WHITENING] = torch.ones(512), torch.eye(512)
    write_model(tmp_path, tensors)

    typical = load_stage(tmp_path, CPU).typical

    assert typical.mean.tolist() == [1.0] * 512
    assert typical.whitening.shape == (512, 512)


def test_a_feature_gate_without_its_statistics_stops_the_worker(network, tmp_path):
    write_model(tmp_path, dict(network.state_dict()))
    limit = FeatureGate(enabled=True, reason="test", limit=1.0, n=5)
    gated = manifests.read(tmp_path).model_copy(
        update={"quality": QualityGate(features=limit)}
    )
    manifests.write(tmp_path, gated)

    with pytest.raises(ModelIntegrityError, match="no statistics of features"):
        load_stage(tmp_path, CPU)
