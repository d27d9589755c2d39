"""From starting weights and cases to a network, whatever the recipe says how."""

from collections.abc import Mapping

import torch
from torchvision.models import ResNet

from dicom_node.errors import SettingsError
from training.config import Recipe
from training.datasets import StageSet
from training.loop import Around, Tensors, fit
from worker.cascade import build_network
from worker.manifest import Preprocessing

Start = Mapping[str, torch.Tensor]
HEAD = "fc."


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
    return {**drawn, **{name: tensor.float() for name, tensor in fitting.items()}}


def learn(
    start: Tensors, data: StageSet, spec: Preprocessing, recipe: Recipe, around: Around
) -> ResNet:
    """Return the network that a recipe makes of these cases, in eval mode.

    It sees these cases only: constants, penalties and weights come from them.
    """
    return fit(start, data, spec, recipe, around)
