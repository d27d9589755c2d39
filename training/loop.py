"""The training loop: epochs of plain SGD that can be left and taken up anywhere.

Nothing depends on what a process has drawn before: the order of the cases and their
variation follow from seed, phase and epoch. So the weights, the momentum and the
number of finished epochs are all the state that there is.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from training.augment import augment
from training.config import STOCK, Recipe, Schedule
from training.datasets import StageSet
from training.statistics.auc import auc
from training.team import Team
from worker.cascade import Network, build_network, logit_difference, reshape
from worker.manifest import Architecture, Preprocessing
from worker.preprocess import standardise

Tensors = dict[str, torch.Tensor]
Tick = Callable[[], None]
Judge = Callable[[Network], float | None]

MOMENTUM: Final = "momentum_buffer"


@dataclass(frozen=True, slots=True)
class Epoch:
    """One row of the curve.

    `rate` is that of the first step. `training_auc` is that of the varied batches
    while the weights change; `fold_auc` that of the held-out fold, to look at only:
    nothing is chosen by it.
    """

    epoch: int
    rate: float
    loss: float
    training_auc: float | None
    fold_auc: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class State:
    """A run after its last finished epoch."""

    weights: Tensors
    momentum: Tensors
    curve: tuple[Epoch, ...]


class Journal(Protocol):
    """Where the state after each epoch is kept."""

    def load(self) -> State | None:
        """Return the last state, None if there is none."""

    def save(self, state: State) -> None:
        """Keep a state; the one before is no longer needed."""


class NoJournal:
    """Keeps nothing: an interrupted run starts again."""

    def load(self) -> State | None:
        """Return None."""
        return None

    def save(self, state: State) -> None:
        """Forget the state."""


ALONE: Final = Team(torch.device("cpu"))
NO_JOURNAL: Final = NoJournal()


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds a run and never changes its result.

    `judge` returns an AUC for the curve; `tick` is called after each step.
    """

    team: Team = ALONE
    journal: Journal = NO_JOURNAL
    judge: Judge = lambda _: None
    tick: Tick = lambda: None


@dataclass(frozen=True, slots=True)
class Phase:
    """Epochs with one shape of the network, from one learning rate."""

    architecture: Architecture
    epochs: int
    rate: float


def phases(recipe: Recipe) -> tuple[Phase, ...]:
    """Return the parts of a run: a coarse one, if the recipe has it, and the final."""
    coarse = Phase(STOCK, recipe.coarse_epochs, recipe.coarse_rate)
    final = Phase(recipe.architecture, recipe.epochs, recipe.rate)
    return (coarse, final) if coarse.epochs else (final,)


def fit(
    start: Tensors, data: StageSet, spec: Preprocessing, recipe: Recipe, around: Around
) -> Network:
    """Train a network from given weights and return it in eval mode on the CPU.

    The last weights count: no epoch is chosen. The same arguments give the same
    bits, however often the run was interrupted; `around` changes nothing but what
    several devices round.
    """
    state = around.journal.load() or State(start, {}, ())
    done = 0
    network = built(recipe.architecture, state.weights)
    network.to(around.team.device)
    for number, phase in enumerate(phases(recipe)):
        left = range(max(len(state.curve) - done, 0), phase.epochs)
        if left:
            reshape(network, phase.architecture)
            runner = _Runner(network, data, spec, recipe, around)
            runner.restore(state.momentum if left.start else {})
            for epoch in left:
                row = runner.epoch(number, phase, epoch, len(state.curve) + 1)
                state = State(*runner.state(), (*state.curve, row))
                if around.team.leads:
                    around.journal.save(state)
                around.team.wait()
        done += phase.epochs
    reshape(network, recipe.architecture)
    network.to("cpu").eval()
    return network


def built(architecture: Architecture, weights: Tensors) -> Network:
    """Return a network with these weights; no random number is drawn."""
    with torch.device("meta"):
        network = build_network(architecture)
    network.to_empty(device="cpu").to(memory_format=torch.channels_last)
    network.load_state_dict(weights)
    return network


def rate_at(recipe: Recipe, phase: Phase, step: int, per_epoch: int) -> float:
    """Return the learning rate of a step of a phase, counted from 0."""
    if recipe.schedule is Schedule.EPOCH_COSINE:
        # CosineAnnealingLR, stepped after each epoch: the first is at the full rate.
        turn = math.cos(math.pi * (step // per_epoch) / phase.epochs)
        return recipe.final_rate + (phase.rate - recipe.final_rate) * (1 + turn) / 2
    total = phase.epochs * per_epoch
    warm = max(total // 10, 1)
    if step < warm:
        return phase.rate * (step + 1) / warm
    turn = math.cos(math.pi * (step - warm) / max(total - warm, 1))
    return phase.rate * 0.5 * (1 + turn)


def draws(seed: int, phase: int, epoch: int) -> torch.Generator:
    """Return the random numbers of an epoch."""
    mixed = np.random.SeedSequence((seed, phase, epoch)).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))


class _Runner:
    """A network, its optimizer and its data on the device, an epoch at a time."""

    def __init__(
        self,
        network: Network,
        data: StageSet,
        spec: Preprocessing,
        recipe: Recipe,
        around: Around,
    ) -> None:
        self.network, self.data, self.spec = network, data, spec
        self.recipe, self.around, self.team = recipe, around, around.team
        self.model = self.team.wrap(network)
        self.optimizer = torch.optim.SGD(
            _groups(network, recipe), lr=recipe.rate, momentum=recipe.momentum
        )
        self.batch = min(recipe.batch, len(data))
        self.per_epoch = len(data) // self.batch

    def restore(self, momentum: Tensors) -> None:
        for name, parameter in self.network.named_parameters():
            if name in momentum:
                buffer = torch.empty_like(parameter).copy_(momentum[name])
                self.optimizer.state[parameter][MOMENTUM] = buffer

    def state(self) -> tuple[Tensors, Tensors]:
        momentum = {
            name: self.optimizer.state[parameter][MOMENTUM].detach()
            for name, parameter in self.network.named_parameters()
        }
        return dict(self.network.state_dict()), momentum

    def epoch(self, number: int, phase: Phase, epoch: int, row: int) -> Epoch:
        """Run one epoch; nothing is fetched from the device before its end."""
        started = time.perf_counter()
        generator = draws(self.recipe.seed, number, epoch)
        order = torch.randperm(len(self.data), generator=generator)
        losses, logits, labels = [], [], []
        self.model.train()
        first = epoch * self.per_epoch
        for step in range(self.per_epoch):  # a rest of a batch is dropped
            rows = order[step * self.batch : (step + 1) * self.batch]
            rate = rate_at(self.recipe, phase, first + step, self.per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss, difference = self._step(rows, generator)
            losses.append(loss)
            logits.append(difference)
            labels.append(self.data.labels[self.team.share(rows)])
            self.around.tick()
        self.team.agree(self.network)
        self.network.eval()
        leads = self.team.leads
        return Epoch(
            epoch=row,
            rate=rate_at(self.recipe, phase, first, self.per_epoch),
            loss=float(self.team.gather(torch.stack(losses)).mean()),
            training_auc=self._auc(torch.cat(labels), torch.cat(logits)),
            fold_auc=self.around.judge(self.network) if leads else None,
            seconds=round(time.perf_counter() - started, 3),
        )

    def _step(
        self, rows: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Learn from one batch; return its loss and logits (b,), on the device."""
        varied = augment(
            self.data.crops[rows], self.recipe.augmentation, self.spec, generator
        )
        x = self._move(self.team.share(standardise(varied, self.spec)))
        x = x.contiguous(memory_format=torch.channels_last)
        labels = self._move(self.data.labels[self.team.share(rows)])
        kind = self.team.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.recipe.autocast):
            logits = self.model(x)
        loss = functional.cross_entropy(logits.float(), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.optimizer.step()
        return loss.detach(), logit_difference(logits.detach().float())

    def _move(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring a tensor to the device without waiting for it."""
        if self.team.device.type == "cpu":
            return tensor
        return tensor.contiguous().pin_memory().to(self.team.device, non_blocking=True)

    def _auc(self, labels: torch.Tensor, logits: torch.Tensor) -> float | None:
        truth = self.team.gather(labels.to(self.team.device)).cpu().numpy()
        scores = self.team.gather(logits).cpu().numpy()
        both = 0 < truth.sum() < len(truth) and bool(np.isfinite(scores).all())
        return auc(truth, scores) if both else None


def _groups(network: nn.Module, recipe: Recipe) -> list[dict[str, object]]:
    """Split the weights: norms and biases are not decayed unless the recipe says so."""
    kernels = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    return [
        {"params": kernels, "weight_decay": recipe.weight_decay},
        {
            "params": others,
            "weight_decay": recipe.weight_decay if recipe.decay_norms else 0.0,
        },
    ]
