"""From starting weights and cases to a network, whichever way the recipe says."""

from collections.abc import Mapping

import numpy as np
import torch

from dicom_node.errors import SettingsError
from training.config import RANDOM, Head, Recipe
from training.datasets import StageSet, split
from training.heads import attach_head, head_steps
from training.loop import Around, Tensors, built, fit, phases
from training.scoring import score_logits
from training.statistics.auc import auc
from training.trunks import initial_weights
from worker.cascade import Network, build_network
from worker.manifest import Preprocessing

Start = Mapping[str, torch.Tensor]
HEAD = "fc."


def pretrained(recipe: Recipe) -> Start | None:
    """Return the trunk that a recipe starts from, None for random weights.

    Raises:
        SettingsError: The file cannot be read, or comes without its SHA-256.
        ModelIntegrityError: The bytes are not the expected ones, or hold no tensors.
    """
    if recipe.init == RANDOM:
        return None
    return initial_weights(recipe.init, recipe.init_sha256)


def starting_weights(recipe: Recipe, given: Start | None) -> Tensors:
    """Return the weights that a network starts from.

    Args:
        recipe: Its seed draws what is not given; the process's own random numbers
            are left alone.
        given: A trunk, or a whole network; a head of another width is drawn anew.

    Raises:
        SettingsError: What is given is not a ResNet18.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        drawn = build_network(recipe.architecture).state_dict()
    if given is None:
        return dict(drawn)
    fitting = {
        name: given[name]
        for name, tensor in drawn.items()
        if name in given and given[name].shape == tensor.shape
    }
    missing = [n for n in drawn if n not in fitting and not n.startswith(HEAD)]
    if missing:
        raise SettingsError(
            f"the weights to start from are no ResNet18: {missing[0]} is missing or "
            f"of another shape (and {len(missing) - 1} more)"
        )
    return {
        name: fitting.get(name, tensor).to(tensor.dtype)
        for name, tensor in drawn.items()
    }


def steps(cases: int, recipe: Recipe) -> int:
    """Return how often `learn` ticks for so many cases."""
    epochs = sum(phase.epochs for phase in phases(recipe))
    head = head_steps(cases, recipe) if recipe.head is Head.LOGISTIC else 0
    return head + epochs * (cases // min(recipe.batch, cases))


def learn(
    start: Tensors, data: StageSet, spec: Preprocessing, recipe: Recipe, around: Around
) -> Network:
    """Return the network that a recipe makes of these cases, in eval mode on the CPU.

    It sees these cases only: constants, penalties and weights come from them.
    """
    if recipe.head is Head.LEARNED:
        return fit(start, data, spec, recipe, around)
    network = built(recipe.architecture, start)
    attach_head(network, data, spec, recipe, around.tick)
    if not recipe.epochs or not _tuning_gains(start, data, spec, recipe):
        return network
    return fit(dict(network.state_dict()), data, spec, recipe, around)


def _tuning_gains(
    start: Tensors, data: StageSet, spec: Preprocessing, recipe: Recipe
) -> bool:
    """Try on a part of the cases whether training the whole network beats the head."""
    kept, aside = split(data, recipe.calibration_share, recipe.seed)
    labels = aside.labels.numpy()
    if len(np.unique(labels)) == 1:
        return False
    frozen = learn(start, kept, spec, recipe.model_copy(update={"epochs": 0}), Around())
    before = auc(labels, score_logits(frozen, aside.crops, spec))
    tuned = fit(dict(frozen.state_dict()), kept, spec, recipe, Around())
    return auc(labels, score_logits(tuned, aside.crops, spec)) > before
