"""A prepared run carried out: folds, the served network, what came of them, publishing.

Every step leaves what it made in the run's folder, so that the same command goes on
where it was killed; the model appears in the folder of models last, and whole.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from dicom_node.errors import SettingsError
from training import card, parts, publish, runs, splits
from training.config import Recipe
from training.crossval import Validated, finish
from training.datasets import StageSet, measure
from training.determinism import determinism
from training.learning import learn, starting_weights
from training.loop import Around
from training.parts import Part, Result
from training.preparation import MODEL_NAMES, Prepared
from training.publish import Origin
from training.row import DEVELOPMENT
from training.runs import Record
from training.splits import Order
from training.team import Team
from worker import models

DRAW_SECONDS: Final = 20.0  # a picture takes a third of a second


@dataclass(frozen=True, slots=True)
class Done:
    """Where a run left its model, and what was measured on the way."""

    model: Path
    validated: Validated


def plan(prepared: Prepared) -> list[Part]:
    """Return the networks of a run, the served one first."""
    return parts.plan(
        prepared.run,
        prepared.given.cases.data,
        prepared.given.folds,
        prepared.wish.recipe,
        prepared.origins.of,
    )


def carry_out(
    prepared: Prepared,
    team: Team,
    workers: int,
    follow: Callable[[str, int], None] = lambda _name, _done: None,
) -> Done | None:
    """Train, calibrate, judge and publish; nothing that is done is done again.

    Returns:
        None in a process that does not lead its team.

    Raises:
        StateError: Another process trains this run.
    """
    with runs.locked(prepared.run) if team.leads else nullcontext():
        if team.leads:
            _begin(prepared)
        team.wait()
        work = plan(prepared)
        parts.train_all(work, workers, team, _drawing(prepared.run, work, follow, team))
        if not team.leads:
            return None
        parts.draw_curves(prepared.run, work)
        return _finish(prepared, work)


def _begin(prepared: Prepared) -> None:
    order = Order(prepared.cohort.id, prepared.wish.folds, prepared.wish.recipe.seed)
    rows = prepared.cohort.of_role(DEVELOPMENT).rows
    splits.obtain(runs.splits_path(prepared.run), rows, order)
    if not (prepared.run / runs.RECORD_NAME).exists():
        runs.write(prepared.run, _record(prepared))


def _record(prepared: Prepared) -> Record:
    labels = prepared.given.cases.data.labels
    return Record(
        key=prepared.key,
        trained_on=prepared.trained_on,
        cases=len(labels),
        positives=int(labels.sum()),
    )


def _drawing(
    run: Path, work: list[Part], follow: Callable[[str, int], None], team: Team
) -> Callable[[str, int], None]:
    """Return `follow` that draws the curves now and then, from the first epoch on."""
    seen: dict[str, int] = {}
    drawn = [0.0]

    def told(name: str, done: int) -> None:
        follow(name, done)
        news, seen[name] = seen.get(name) != done, done
        if team.leads and news and time.monotonic() - drawn[0] > DRAW_SECONDS:
            parts.draw_curves(run, work)
            drawn[0] = time.monotonic()

    return told


def results(work: list[Part]) -> list[Result]:
    """Return the results of all parts.

    Raises:
        SettingsError: One is missing or torn.
    """
    found = []
    for part in work:
        result = parts.result_of(part)
        if result is None:
            raise SettingsError(
                f"{part.folder} has no whole result: give the same command again"
            )
        found.append(result)
    return found


def _finish(prepared: Prepared, work: list[Part]) -> Done:
    with determinism(prepared.wish.recipe.threads):
        validated = finish(
            prepared.given,
            work,
            results(work),
            lambda: (prepared.heldout, prepared.dataset),
        )
    runs.write_oof(prepared.run, validated.oof)
    parent = prepared.origins.parent
    origin = Origin(
        name=MODEL_NAMES[prepared.wish.stage],
        trained_on=prepared.trained_on,
        parent_weights_sha256=parent.weights_sha256 if parent else None,
    )
    background = card.Background(
        population=card.population(prepared.cohort, prepared.given.cases.case_ids),
        training=validated.training,
        resubstitution=validated.resubstitution,
        cases=len(prepared.given.cases),
        positives=int(prepared.given.cases.data.labels.sum()),
        started_from=prepared.origins.words,
        folds=prepared.wish.folds,
    )
    path = _published(prepared) or publish.publish(
        validated.trained, prepared.wish.out, origin, background
    )
    manifest = models.verify(path)
    done = _record(prepared).model_copy(
        update={
            "published": manifest.reference,
            "weights_sha256": manifest.weights_sha256,
            "measured": {
                "oof_auc": validated.training.value,
                "resubstitution_auc": validated.resubstitution.value,
                "heldout_auc": manifest.performance.auc,
            },
        }
    )
    runs.write(prepared.run, done)
    return Done(path, validated)


def _published(prepared: Prepared) -> Path | None:
    """Return the model that this run published before, if it is still whole."""
    record = runs.read(prepared.run)
    if record.published is None:
        return None
    path = models.folder(prepared.wish.out, *record.published.split("@", 1))
    if not path.exists() or models.verify(path).weights_sha256 != record.weights_sha256:
        return None
    return path


def estimate(prepared: Prepared, workers: int) -> float:
    """Return the seconds that a run will take, from two small timed ones.

    Reads, starts and the last steps are not in it.
    """
    recipe, data = prepared.wish.recipe, prepared.given.cases.data
    few = _few(data, recipe)
    spec = measure(few)
    short = recipe.model_copy(
        update={"epochs": min(recipe.epochs, 1), "coarse_epochs": 0}
    )
    start = starting_weights(recipe, prepared.origins.common)
    with determinism(recipe.threads):
        learn(start, few, spec, short, Around())
        began = time.perf_counter()
        learn(start, few, spec, short, Around())
        seconds = time.perf_counter() - began
    per_case = seconds / len(few)
    epochs = parts.epochs(recipe)
    return per_case * len(data) * prepared.wish.folds * epochs / workers


def _few(data: StageSet, recipe: Recipe) -> StageSet:
    """Return two batches with both classes."""
    half = recipe.batch
    chosen = torch.cat(
        [(data.labels == label).nonzero().flatten()[:half] for label in (0, 1)]
    )
    return data.take(chosen.numpy())
