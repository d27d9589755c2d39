"""Labels that mean nothing give an AUC of one half: nothing leaks into a fold."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dicom_node.findings import Stage
from tests.quick_cohorts import cohort
from training import execution
from training.config import PRESETS
from training.preparation import Wish, prepare
from training.statistics.auc import auc
from training.team import Team

CPU = Team(torch.device("cpu"))


def shuffled(snapshot, seed):
    """The same crops with the labels of other cases."""
    order = np.random.default_rng(seed).permutation(len(snapshot))
    labels = snapshot.crops.sln[torch.from_numpy(order)]
    rows = tuple(
        row.model_copy(update={"sln": int(label)})
        for row, label in zip(snapshot.rows, labels.tolist(), strict=True)
    )
    return replace(snapshot, rows=rows, crops=replace(snapshot.crops, sln=labels))


@pytest.mark.parametrize(("shuffle", "low", "high"), [(False, 0.95, 1), (True, 0, 0)])
def test_permuted_labels_give_an_auc_of_one_half(tmp_path, shuffle, low, high):
    given = cohort(development=260, holdout=20, external=0)
    if shuffle:
        given = shuffled(given, 5)
        low, high = 0.5 - 0.09, 0.5 + 0.09
    recipe = PRESETS["ci"].model_copy(update={"init": "none", "dilated": False})
    recipe = recipe.model_copy(update={"head_from": 4})
    prepared = prepare(Wish(Stage.SLN, recipe, tmp_path), given, CPU)
    oof = execution.carry_out(prepared, CPU, 1).validated.oof

    assert low <= auc(oof.labels, oof.probabilities) <= high
