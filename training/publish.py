"""Publishing trained stages into a folder of models, whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torchvision
from safetensors.torch import save

from dicom_node.errors import NodeError
from training import card
from training.durable import write_whole
from training.train import Trained
from worker import manifest as manifests
from worker import models
from worker.cascade import Network, TypicalFeatures
from worker.manifest import Manifest, TrainingRecord
from worker.weights import FEATURE_MEAN, WHITENING


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: its name, its data in words, the stage before it."""

    name: str
    trained_on: str
    parent_weights_sha256: str | None = None


def encode(network: Network, typical: TypicalFeatures | None = None) -> bytes:
    """Encode a network, and the statistics of its features, as safetensors, float32."""
    state: dict[str, torch.Tensor] = dict(network.state_dict())
    if typical is not None:
        state[FEATURE_MEAN] = torch.from_numpy(typical.mean).float()
        state[WHITENING] = torch.from_numpy(typical.whitening).float()
    return save({name: tensor.contiguous() for name, tensor in state.items()})


def libraries() -> dict[str, str]:
    """Return the versions that decide the bits of a training run."""
    return {
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def describe(trained: Trained, origin: Origin, digest: str, now: datetime) -> Manifest:
    """Write down what a model is; its version is the day and its weights' digest."""
    recipe = trained.recipe
    return Manifest(
        name=origin.name,
        version=f"{now:%Y%m%d}-{digest[:8]}",
        stage=trained.stage,
        architecture=recipe.architecture,
        preprocessing=trained.preprocessing,
        calibration=trained.calibration,
        operating_threshold=trained.threshold,
        performance=trained.performance,
        heat_range=trained.heat_range,
        quality=trained.quality,
        weights_sha256=digest,
        trained_on=origin.trained_on,
        training=TrainingRecord(
            preset=recipe.preset,
            seed=recipe.seed,
            threads=recipe.threads,
            config=recipe.model_dump(mode="json"),
            libraries=libraries(),
            parent_weights_sha256=origin.parent_weights_sha256,
        ),
        created_at=now,
    )


def publish(
    trained: Trained,
    root: Path,
    origin: Origin,
    background: card.Background | None = None,
) -> Path:
    """Write a model to ROOT/NAME/VERSION/ and return that folder.

    `background` is what the card says beyond the manifest.

    The folder appears by one rename, complete and on disk. The same weights on the
    same day are the same version: the one that is there stays, if it says the same.
    """
    content = encode(trained.network, trained.typical)
    digest = hashlib.sha256(content).hexdigest()
    manifest = describe(
        trained, origin, digest, datetime.now(UTC).replace(microsecond=0)
    )
    target = root / manifest.name / manifest.version
    if _is_there(target, manifest):
        return target
    shutil.rmtree(target, ignore_errors=True)  # damaged or of another recipe
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    try:
        write_whole(draft / manifests.WEIGHTS_NAME, content)
        write_whole(draft / manifests.CARD_NAME, _card(manifest, background))
        manifests.write(draft, manifest)
        draft.chmod(0o755)
        draft.rename(target)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(draft)
        raise
    _sync_folder(target.parent)
    return target


def _card(manifest: Manifest, background: card.Background | None) -> bytes:
    return card.render(manifest, background).encode("utf-8")


def _is_there(folder: Path, manifest: Manifest) -> bool:
    try:
        found = models.verify(folder)
    except NodeError:
        return False
    return found.model_copy(update={"created_at": manifest.created_at}) == manifest


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
