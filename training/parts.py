"""The networks of a run, one for each fold and one for all cases, side by side.

Each is trained in a folder of its own, in this process or in one of several; a killed
one goes on from its last finished epoch. How many work at once changes no bit.
"""

import fcntl
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from training import checkpoint, curves
from training.checkpoint import OnDisk
from training.config import Recipe
from training.datasets import StageSet, measure
from training.determinism import determinism
from training.learning import Start, learn, starting_weights
from training.loop import Around, State, Tensors, built, phases
from training.range import distances, learn_features
from training.scoring import pooled_features, score_logits
from training.statistics.auc import auc
from training.team import Team
from worker.cascade import Network
from worker.manifest import Preprocessing

RESULT_NAME: Final = "result.safetensors"
ALL: Final = "all"
LOGITS, DISTANCES = "aside.logits", "aside.distances"
POLL_SECONDS: Final = 0.5

Follow = Callable[[str, int], None]
"""Called with a part's name and its finished epochs."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One network: where it starts, what it learns from, what it is asked afterwards.

    Arrays instead of tensors, so that another process gets a copy and no handle.
    `aside` holds the cases of the fold left out, none for the network of all cases.
    """

    name: str
    folder: Path
    recipe: Recipe
    start: dict[str, NDArray[np.generic]]
    crops: NDArray[np.float32]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64] | None
    aside_crops: NDArray[np.float32]
    aside_labels: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Result:
    """A trained part: its network and what it says of the cases left aside (m,).

    `distances` are NaN where the recipe has no feature gate.
    """

    network: Network
    preprocessing: Preprocessing
    logits: NDArray[np.float64]
    distances: NDArray[np.float64]


def plan(
    run: Path,
    data: StageSet,
    folds: NDArray[np.int64],
    recipe: Recipe,
    starts: Callable[[str], Start | None],
) -> list[Part]:
    """Return the parts of a run: that of all cases, then one for each fold.

    The longest comes first, so that several processes end together. `starts` gives
    what a part starts from.
    """
    everyone = np.arange(len(data), dtype=np.int64)
    chosen = {ALL: (everyone, everyone[:0])} | {
        f"fold-{fold}": (np.flatnonzero(folds != fold), np.flatnonzero(folds == fold))
        for fold in range(1, int(folds.max()) + 1)
    }
    crops, labels, patients = data.crops.numpy(), data.labels.numpy(), data.patients
    return [
        Part(
            name=name,
            folder=run / name,
            recipe=recipe,
            start={
                key: tensor.numpy()
                for key, tensor in starting_weights(recipe, starts(name)).items()
            },
            crops=crops[kept],
            labels=labels[kept],
            patients=None if patients is None else patients[kept],
            aside_crops=crops[aside],
            aside_labels=labels[aside],
        )
        for name, (kept, aside) in chosen.items()
    ]


def train_all(parts: Sequence[Part], workers: int, team: Team, follow: Follow) -> None:
    """Train every part that is not done, `workers` at a time."""
    left = []
    for part in parts:
        if result_of(part) is None:
            left.append(part)
        else:
            follow(part.name, epochs(part.recipe))
    if workers > 1 and team.world == 1 and len(left) > 1:
        _train_beside(left, workers, team, follow)
        return
    for part in left:
        train_part(part, team, follow)


def _train_beside(
    left: Sequence[Part], workers: int, team: Team, follow: Follow
) -> None:
    """Train parts in several processes and tell what their folders show."""
    context = multiprocessing.get_context("spawn")  # forked children inherit threads
    with ProcessPoolExecutor(
        min(workers, len(left)), mp_context=context, initializer=_end_with_parent
    ) as pool:
        pending = {pool.submit(train_part, part, team) for part in left}
        try:
            while pending:
                done, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    future.result()
                for part in left:
                    follow(part.name, finished(part))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def _end_with_parent() -> None:
    """End this process when its parent is killed: nobody else would."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def epochs(recipe: Recipe) -> int:
    """Return how many epochs a part has; a head on a frozen trunk counts as one."""
    return max(sum(phase.epochs for phase in phases(recipe)), 1)


def finished(part: Part) -> int:
    """Return the finished epochs of a part, as its folder tells them."""
    if (part.folder / RESULT_NAME).exists():
        return epochs(part.recipe)
    return len(curves.read(part.folder / curves.CURVE_NAME))


def train_part(
    part: Part, team: Team, follow: Follow = lambda _name, _done: None
) -> None:
    """Train one part and write its result, unless that is there."""
    part.folder.mkdir(parents=True, exist_ok=True)
    with _held(part.folder, team), determinism(part.recipe.threads):
        if result_of(part) is None:
            _train(part, team, follow)
    team.wait()


@contextmanager
def _held(folder: Path, team: Team) -> Iterator[None]:
    """Wait until nobody else writes into a folder, a dying process of before."""
    if not team.leads:
        yield
        return
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, slots=True)
class _Followed:
    """A journal on disk that tells a progress bar."""

    disk: OnDisk
    told: Callable[[int], None]

    def load(self) -> State | None:
        state = self.disk.load()
        self.told(len(state.curve) if state else 0)
        return state

    def save(self, state: State) -> None:
        self.disk.save(state)
        self.told(len(state.curve))


def _train(part: Part, team: Team, follow: Follow) -> None:
    crops, labels = torch.from_numpy(part.crops), torch.from_numpy(part.labels)
    aside = torch.from_numpy(part.aside_crops)
    data = StageSet(crops, labels, patients=part.patients)
    spec = measure(data)
    disk = OnDisk(part.folder)

    def judge(network: Network) -> float | None:
        if not 0 < part.aside_labels.sum() < len(part.aside_labels):
            return None
        return auc(part.aside_labels, score_logits(network, aside, spec))

    around = Around(
        team=team,
        journal=_Followed(disk, lambda done: follow(part.name, done)),
        judge=judge,
    )
    start = {name: torch.from_numpy(array) for name, array in part.start.items()}
    network = learn(start, data, spec, part.recipe, around)
    if not team.leads:
        return
    tensors: Tensors = dict(network.state_dict())
    tensors |= {LOGITS: torch.zeros(0), DISTANCES: torch.zeros(0)}
    if len(aside):
        tensors[LOGITS] = torch.from_numpy(score_logits(network, aside, spec))
        tensors[DISTANCES] = torch.full((len(aside),), torch.nan, dtype=torch.float64)
    if len(aside) and part.recipe.feature_gate:
        typical = learn_features(pooled_features(network, crops, spec))
        beyond = distances(typical, pooled_features(network, aside, spec))
        tensors[DISTANCES] = torch.from_numpy(beyond)
    facts = {"preprocessing": spec.model_dump(mode="json")}
    checkpoint.write(part.folder / RESULT_NAME, tensors, facts)
    disk.forget()
    follow(part.name, epochs(part.recipe))


def result_of(part: Part) -> Result | None:
    """Return the result of a part, None while there is no whole one."""
    found = checkpoint.read(part.folder / RESULT_NAME)
    if found is None:
        return None
    tensors, facts = found
    logits, beyond = tensors.pop(LOGITS), tensors.pop(DISTANCES)
    network = built(part.recipe.architecture, tensors)
    network.eval()
    return Result(
        network=network,
        preprocessing=Preprocessing.model_validate(facts["preprocessing"]),
        logits=logits.double().numpy(),
        distances=beyond.double().numpy(),
    )


def weights_of(run: Path, name: str) -> Tensors | None:
    """Return the weights of a part of another run, for whoever starts from them."""
    found = checkpoint.read(run / name / RESULT_NAME)
    if found is None:
        return None
    return {k: v for k, v in found[0].items() if k not in {LOGITS, DISTANCES}}


def draw_curves(run: Path, parts: Sequence[Part]) -> None:
    """Draw the curves of all parts into one picture, if an epoch is finished."""
    found = {part.name: curves.read(part.folder / curves.CURVE_NAME) for part in parts}
    begun = {name: curve for name, curve in sorted(found.items()) if curve}
    if begun:
        curves.draw(run / curves.PICTURE_NAME, begun)
