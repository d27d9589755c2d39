"""Golden cases: what a model said of a few phantoms when it was made.

`golden.safetensors` beside the manifest holds crops and probabilities. Whoever reads
the model back, years later and with other libraries, must get the same.
"""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from dicom_node.errors import ModelIntegrityError, SettingsError
from training.datasets import from_phantom
from training.durable import write_whole
from training.heldout import probabilities
from training.phantom import law as laws
from training.phantom.anatomy import Level

GOLDEN_NAME: Final = "golden.safetensors"
CASES: Final = 8
SEED: Final = 20_240_101


@cache
def crops() -> torch.Tensor:
    """Return the crops (8, 70, 70) that new models are remembered by."""
    patients = laws.draw(laws.COHORTS[0], CASES, SEED)
    return from_phantom(patients, SEED, Level.EASY, lambda: None).crops


def remember(folder: Path) -> None:
    """Store what the model in a folder says of the golden cases, once."""
    path = folder / GOLDEN_NAME
    if not path.exists():
        said = torch.from_numpy(probabilities(folder, crops()))
        write_whole(path, save({"crops": crops(), "probabilities": said}))


def difference(folder: Path) -> float | None:
    """Return the largest difference from what was remembered; None: nothing was.

    Raises:
        ModelIntegrityError: The file is damaged.
        SettingsError: A file of the model is missing.
    """
    path = folder / GOLDEN_NAME
    try:
        stored = load(path.read_bytes())
        before = stored["probabilities"].double().numpy()
        now = probabilities(folder, stored["crops"])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    except (SafetensorError, KeyError) as error:
        raise ModelIntegrityError(
            f"{path} is damaged; restore it, or publish the model again"
        ) from error
    return float(np.abs(now - before).max())
