"""Training one stage: one loop, plain SGD, and what the manifest says of the result."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torchvision.models import ResNet

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training.augment import augment
from training.config import STOCK, Recipe
from training.datasets import StageSet, measure, split
from training.range import FEATURES_OFF, learn_features, learn_sides, limit_features
from training.statistics.auc import auc_interval
from training.statistics.calibration import fit_platt, threshold_at_sensitivity
from worker.cascade import (
    TypicalFeatures,
    build_network,
    class_activation,
    feature_map,
    logit_difference,
    pooled,
)
from worker.manifest import (
    Calibration,
    OperatingThreshold,
    Performance,
    Preprocessing,
    QualityGate,
    operating_point,
)
from worker.preprocess import centre, standardise

Weights = Mapping[str, torch.Tensor]
Tick = Callable[[], None]

SCORE_BATCH = 32
MIN_RARER = 5  # of each class; less cannot be split, calibrated and judged
HEAT_CASES = 128
HEAT_PERCENTILE = 99


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained stage with everything that was measured on it."""

    stage: Stage
    recipe: Recipe
    network: ResNet
    preprocessing: Preprocessing
    calibration: Calibration
    threshold: OperatingThreshold
    performance: Performance
    heat_range: tuple[float, float]
    quality: QualityGate
    typical: TypicalFeatures | None


@dataclass(frozen=True, slots=True)
class Task:
    """What to train on, and what to judge it by.

    `development` is split for calibration; `heldout` is only ever scored, once.
    `dataset` names the held-out cases for people.
    """

    stage: Stage
    development: StageSet
    heldout: StageSet
    dataset: str
    parent: Weights | None = None


@contextmanager
def determinism(threads: int) -> Iterator[None]:
    """Use deterministic algorithms and a fixed number of threads for a while."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])


def steps(task: Task, recipe: Recipe) -> int:
    """Return how often `train` calls `tick`, for a progress bar."""
    cases = len(task.development) - round(
        len(task.development) * recipe.calibration_share
    )
    return sum(recipe.steps(cases))


def train(task: Task, recipe: Recipe, tick: Tick) -> Trained:
    """Train, calibrate and judge one stage.

    Args:
        task: The cases; development and held-out ones are different patients.
        recipe: Every number of the run.
        tick: Called after each step.

    Raises:
        SettingsError: There are too few cases of a class.
    """
    for name, part in (("development", task.development), ("held-out", task.heldout)):
        if part.rarer < MIN_RARER:
            raise SettingsError(
                f"{task.stage}: {part.rarer} {name} cases of the rarer class, "
                f"at least {MIN_RARER} are needed: use a larger cohort"
            )
    learn, aside = split(task.development, recipe.calibration_share, recipe.seed)
    spec = measure(learn)
    with determinism(recipe.threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = _fit_both_parts(task.parent, learn, recipe, tick)
        logits = score_logits(network, aside.crops, spec)
        labels = aside.labels.numpy()
        calibration = fit_platt(labels, logits)
        threshold = _threshold(labels, _calibrated(logits, calibration), recipe)
        heldout = _calibrated(
            score_logits(network, task.heldout.crops, spec), calibration
        )
        typical, features = None, FEATURES_OFF
        if recipe.feature_gate:
            typical = learn_features(pooled_features(network, learn.crops, spec))
            features = limit_features(
                typical, pooled_features(network, aside.crops, spec)
            )
        return Trained(
            stage=task.stage,
            recipe=recipe,
            network=network,
            preprocessing=spec,
            calibration=calibration,
            threshold=threshold,
            performance=_judge(task, heldout, threshold.value),
            heat_range=_heat_range(network, learn.crops[:HEAT_CASES], spec),
            quality=QualityGate(
                sides=learn_sides(task.development.sides, recipe.side_tolerance),
                features=features,
            ),
            typical=typical,
        )


def _fit_both_parts(
    parent: Weights | None, learn: StageSet, recipe: Recipe, tick: Tick
) -> ResNet:
    spec = measure(learn)
    coarse, final = recipe.steps(len(learn))
    network = build_network(STOCK if coarse else recipe.architecture)
    if parent is not None:
        network.load_state_dict(dict(parent))
    if coarse:
        fit(network, learn, spec, Plan(recipe, coarse, recipe.coarse_rate), tick)
        served = build_network(recipe.architecture)
        served.load_state_dict(network.state_dict())
        network = served
    fit(network, learn, spec, Plan(recipe, final, recipe.rate), tick)
    network.eval()
    return network


@dataclass(frozen=True, slots=True)
class Plan:
    """One part of a training run: how many steps, from which learning rate."""

    recipe: Recipe
    steps: int
    rate: float


def fit(
    network: ResNet, data: StageSet, spec: Preprocessing, plan: Plan, tick: Tick
) -> None:
    """Train a network in place, cosine from `plan.rate` to 0 after a short warm-up."""
    recipe = plan.recipe
    network.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        _groups(network, recipe), lr=plan.rate, momentum=recipe.momentum
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _rate(step, plan.steps)
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    for rows in _batches(len(data), recipe.batch, plan.steps, generator):
        varied = augment(data.crops[rows], recipe.augmentation, spec, generator)
        x = standardise(varied, spec).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
            logits = network(x)
        loss = functional.cross_entropy(logits.float(), data.labels[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        schedule.step()
        tick()


def _groups(network: ResNet, recipe: Recipe) -> list[dict[str, object]]:
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


def _rate(step: int, total: int) -> float:
    warm = max(total // 10, 1)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (step - warm) / max(total - warm, 1))))


def _batches(
    n: int, batch: int, total: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    """Yield rows of `total` batches; each epoch is a new order, a rest is dropped."""
    per_epoch = max(n // batch, 1)
    order = torch.randperm(n, generator=generator)
    for step in range(total):
        at = step % per_epoch
        if step and at == 0:
            order = torch.randperm(n, generator=generator)
        yield order[at * batch : (at + 1) * batch]


def _served_inputs(crops: torch.Tensor, spec: Preprocessing) -> Iterator[torch.Tensor]:
    for start in range(0, len(crops), SCORE_BATCH):
        part = crops[start : start + SCORE_BATCH]
        x = standardise(centre(part, spec), spec)  # (b, 3, 64, 64)
        yield x.contiguous(memory_format=torch.channels_last)


def score_logits(
    network: ResNet, crops: torch.Tensor, spec: Preprocessing
) -> NDArray[np.float64]:
    """Return the logit differences (n,) of crops (n, 70, 70), as they are served."""
    with torch.inference_mode():
        parts = [logit_difference(network(x)) for x in _served_inputs(crops, spec)]
    logits: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return logits


def pooled_features(
    network: ResNet, crops: torch.Tensor, spec: Preprocessing
) -> NDArray[np.float64]:
    """Return the features (n, 512) of crops (n, 70, 70), as they are served."""
    with torch.inference_mode():
        parts = [pooled(feature_map(network, x)) for x in _served_inputs(crops, spec)]
    features: NDArray[np.float64] = torch.cat(parts).numpy()
    return features


def _heat_range(
    network: ResNet, crops: torch.Tensor, spec: Preprocessing
) -> tuple[float, float]:
    """Return a symmetric scale: the 99th percentile of |CAM| over training crops."""
    with torch.inference_mode():
        maps = [
            class_activation(network, feature_map(network, x))[0]
            for x in _served_inputs(crops, spec)
        ]
    extent = float(np.percentile(torch.cat(maps).abs().numpy(), HEAT_PERCENTILE))
    bound = float(f"{max(extent, 1e-6):.3g}")  # people read it on the colour bar
    return -bound, bound


def _calibrated(
    logits: NDArray[np.float64], calibration: Calibration
) -> NDArray[np.float64]:
    return np.array([calibration.probability(logit) for logit in logits.tolist()])


def _threshold(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], recipe: Recipe
) -> OperatingThreshold:
    if recipe.target_sensitivity is None:
        return OperatingThreshold(value=0.5, how="fixed at 0.5, as in the paper")
    return threshold_at_sensitivity(labels, probabilities, recipe.target_sensitivity)


def _judge(
    task: Task, probabilities: NDArray[np.float64], threshold: float
) -> Performance:
    labels = task.heldout.labels.numpy()
    area = auc_interval(labels, probabilities)
    positives = tuple(np.sort(probabilities[labels == 1]).tolist())
    negatives = tuple(np.sort(probabilities[labels == 0]).tolist())
    point = operating_point(positives, negatives, threshold)
    return Performance(
        dataset=task.dataset,
        n=len(labels),
        auc=area.value,
        auc_low=area.low,
        auc_high=area.high,
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        positives=positives,
        negatives=negatives,
    )
