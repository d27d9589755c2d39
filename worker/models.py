"""Models on disk, MODELS/NAME/VERSION/, listed and checked without torch."""

import hashlib
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

from dicom_node.errors import ModelIntegrityError, SettingsError
from dicom_node.findings import Stage
from worker import manifest as manifests
from worker.manifest import Manifest
from worker.outcomes import Activation


def folder(models: Path, name: str, version: str) -> Path:
    """Return the folder of one model, which may not exist."""
    return models / name / version


def installed(models: Path) -> list[Manifest]:
    """Return the manifests of all models, by name and age.

    Raises:
        SettingsError: A manifest cannot be read.
    """
    found = [
        manifests.read(path.parent)
        for path in models.glob(f"*/*/{manifests.MANIFEST_NAME}")
        if not path.parent.name.startswith(".")
    ]
    return sorted(found, key=lambda model: (model.name, model.created_at))


def verify(path: Path) -> Manifest:
    """Read a model's manifest and compare its weights with it.

    Raises:
        SettingsError: A file is missing or is not what it should be.
        ModelIntegrityError: The weights have another SHA-256 than the manifest says.
    """
    manifest = manifests.read(path)
    weights = path / manifests.WEIGHTS_NAME
    try:
        with weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SettingsError(f"{weights} cannot be read: {error.strerror}") from error
    if digest != manifest.weights_sha256:
        raise ModelIntegrityError(
            f"{weights} has SHA-256 {digest}, its manifest says "
            f"{manifest.weights_sha256}; restore the file or activate another model"
        )
    _demand_safetensors(weights)
    return manifest


def _demand_safetensors(weights: Path) -> None:
    """Refuse what can be nothing but another format: a pickle could run code.

    A safetensors file begins with the length of its header, which is a JSON object.

    Raises:
        ModelIntegrityError: It begins otherwise.
    """
    with weights.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8).ljust(8, b"\xff"))
        begins = stream.read(1)
    if begins != b"{" or length > weights.stat().st_size - 8:
        raise ModelIntegrityError(
            f"{weights} is no safetensors file; other formats are never read"
        )


def in_service(stage: Stage, active: Mapping[Stage, Activation]) -> Activation:
    """Return the activation of a stage.

    Raises:
        SettingsError: No model is active for the stage.
    """
    if stage not in active:
        raise SettingsError(
            f"no {stage} model is active; see `sentinode models list`, then run "
            "`sentinode models activate NAME@VERSION`"
        )
    return active[stage]


def phase_in_service(models: Path, active: Mapping[Stage, Activation]) -> str:
    """Return the DCE phase that the active model of stage I was trained on.

    Raises:
        SettingsError: There is no such model, or its manifest cannot be read.
    """
    activation = in_service(Stage.SLN, active)
    path = folder(models, activation.name, activation.version)
    return manifests.read(path).preprocessing.phase


def check_activated(manifest: Manifest, activation: Activation) -> None:
    """Compare a model with what a person activated.

    Raises:
        ModelIntegrityError: The model on disk is another one of the same name.
    """
    if manifest.weights_sha256 != activation.weights_sha256:
        raise ModelIntegrityError(
            f"{manifest.reference} on disk has weights {manifest.weights_sha256}, "
            f"activated were {activation.weights_sha256}; restore the file or "
            "activate the model again"
        )


def install(source: Path, models: Path) -> Manifest:
    """Copy a checked model into the folder of models, whole or not at all."""
    manifest = verify(source)
    target = folder(models, manifest.name, manifest.version)
    if target.exists():
        if verify(target) != manifest:
            raise SettingsError(f"{target} holds another model of the same version")
        return manifest
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    if verify(partial) != manifest:  # somebody changed it while it was copied
        raise ModelIntegrityError(f"{source} is not what it was: install it again")
    partial.rename(target)
    return manifest


def card(path: Path) -> str:
    """Return the text of a model card.

    Raises:
        SettingsError: The card is missing.
    """
    try:
        return (path / manifests.CARD_NAME).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path} has no model card: {error.strerror}") from error
