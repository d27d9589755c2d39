import math

import pytest
import torch

from tests.quick_cohorts import TINY, easy_set
from training import checkpoint
from training.checkpoint import CHECKPOINT_NAME, OnDisk
from training.config import DILATED, PRESETS
from training.datasets import measure
from training.determinism import determinism
from training.learning import starting_weights
from training.loop import Around, Phase, fit, phases, rate_at

DATA = easy_set(20, 1)
SPEC = measure(DATA)


class KilledError(Exception):
    """The process ends here."""


def trained(recipe, around=None):
    with determinism(1):
        start = starting_weights(recipe, None)
        return fit(start, DATA, SPEC, recipe, around or Around()).state_dict()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted():
    return trained(TINY)


def test_a_run_that_was_killed_in_an_epoch_ends_with_the_same_weights(
    tmp_path, uninterrupted
):
    steps = []

    def kill():
        steps.append(1)
        if len(steps) == 3:  # of two an epoch: in the middle of the second
            raise KilledError

    journal = OnDisk(tmp_path)
    with pytest.raises(KilledError):
        trained(TINY, Around(journal=journal, tick=kill))
    assert len(journal.load().curve) == 1

    steps[:] = [0] * 10
    assert same(trained(TINY, Around(journal=journal, tick=kill)), uninterrupted)
    assert len(steps) == 12  # the second epoch alone was run again


def test_a_torn_checkpoint_is_none(tmp_path, uninterrupted):
    journal = OnDisk(tmp_path)
    trained(TINY.model_copy(update={"epochs": 1}), Around(journal=journal))
    path = tmp_path / CHECKPOINT_NAME
    whole = path.read_bytes()
    for torn in (whole[:-1000], whole[:-1000] + bytes(1000), b""):
        path.write_bytes(torn)
        assert checkpoint.read(path) is None

    assert same(trained(TINY, Around(journal=journal)), uninterrupted)


def test_a_run_goes_on_in_its_second_phase(tmp_path):
    recipe = TINY.model_copy(update={"coarse_epochs": 1, "dilated": True, "batch": 20})
    whole = trained(recipe)
    ticks = []

    def kill():
        ticks.append(1)
        if len(ticks) == 3:
            raise KilledError

    journal = OnDisk(tmp_path)
    with pytest.raises(KilledError):
        trained(recipe, Around(journal=journal, tick=kill))

    assert len(journal.load().curve) == 2
    assert same(trained(recipe, Around(journal=journal)), whole)
    assert recipe.architecture == DILATED


def test_looking_at_a_run_changes_no_bit(uninterrupted):
    looked = trained(TINY, Around(judge=lambda _: 0.5))
    assert same(looked, uninterrupted)


def test_the_curve_tells_each_epoch(tmp_path):
    journal = OnDisk(tmp_path)
    trained(TINY, Around(journal=journal, judge=lambda _: 0.75))
    curve = journal.load().curve

    assert [row.epoch for row in curve] == [1, 2]
    assert curve[0].loss > curve[1].loss > 0
    assert all(0 <= row.training_auc <= 1 for row in curve)
    assert curve[0].fold_auc == 0.75
    text = (tmp_path / "curve.csv").read_text().splitlines()
    assert text[0] == "epoch,rate,loss,training_auc,fold_auc,seconds"
    assert len(text) == 3


def test_the_paper_s_rate_is_pytorch_s_cosine():
    paper = PRESETS["paper"]
    (phase,) = phases(paper)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.005)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=20, eta_min=1e-6
    )
    for epoch in range(20):
        expected = optimizer.param_groups[0]["lr"]
        for step in (0, 11):
            rate = rate_at(paper, phase, epoch * 12 + step, 12)
            assert math.isclose(rate, expected, rel_tol=1e-9)
        optimizer.step()
        schedule.step()


def test_the_default_rate_warms_up_and_falls_to_nothing():
    phase = Phase(DILATED, 10, 0.02)
    rates = [rate_at(TINY, phase, step, 10) for step in range(100)]

    assert rates[9] == 0.02
    assert rates[0] == pytest.approx(0.002)
    assert rates[-1] < 1e-5


def test_the_paper_preset_decays_everything_and_crops_only():
    paper = PRESETS["paper"]
    assert (paper.momentum, paper.weight_decay, paper.decay_norms) == (0.9, 5e-4, True)
    assert paper.augmentation == "crop"
    assert (paper.epochs, paper.batch, paper.coarse_epochs) == (20, 32, 0)
