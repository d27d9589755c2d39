"""All checks of a training run, before anything is written or hours are spent."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch

from dicom_node.errors import SettingsError
from dicom_node.findings import Stage
from training import leakage, runs, splits
from training.config import PROCEDURAL, RANDOM, Recipe
from training.crossval import Cases, Development, cases_of, development
from training.learning import Start, pretrained, starting_weights
from training.parts import ALL, weights_of
from training.publish import libraries
from training.row import DEVELOPMENT, HOLDOUT
from training.runs import Key, OutOfFold
from training.snapshot import Snapshot
from training.splits import Order, Splits
from training.team import Team
from training.train import check_enough
from worker import models
from worker.manifest import Manifest
from worker.weights import load_stage

MODEL_NAMES: Final = {Stage.SLN: "resnet18-sln", Stage.NSLN: "resnet18-nsln"}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for; `parent` is the folder of the SLN model to use."""

    stage: Stage
    recipe: Recipe
    out: Path
    folds: int = 5
    parent: Path | None = None


@dataclass(frozen=True, slots=True)
class Origins:
    """What the networks start from: one start for all, or one for each part."""

    words: str
    common: Start | None = None
    each: Mapping[str, Start] = field(default_factory=dict)
    parent: Manifest | None = None

    def of(self, part: str) -> Start | None:
        """Return what a part starts from."""
        return self.each.get(part, self.common)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that passed every check; nothing is written yet."""

    wish: Wish
    cohort: Snapshot
    splits: Splits
    given: Development
    heldout: Cases
    origins: Origins
    key: Key

    @property
    def run(self) -> Path:
        """Folder of the run, which may not exist yet."""
        return runs.folder(self.wish.out, self.key)

    @property
    def trained_on(self) -> str:
        """The development cases in words."""
        labels = self.given.cases.data.labels
        return (
            f"{self.cohort.description}, n = {len(labels)} "
            f"({int(labels.sum())} positive), snapshot {self.cohort.id[:12]}"
        )

    @property
    def dataset(self) -> str:
        """The held-out cases in words."""
        return f"holdout of {self.cohort.description}"


def prepare(wish: Wish, cohort: Snapshot, team: Team) -> Prepared:
    """Check that a run on a cohort can succeed and be believed; write nothing.

    Args:
        wish: What to train.
        cohort: All of it; only development and held-out cases are looked at.
        team: Where.

    Raises:
        SettingsError: Something is wrong with the cohort or the starting weights; the
            message says which cases or file, and what to do.
        ModelIntegrityError: The file of the parent's weights is damaged.
    """
    _check_batch(wish.recipe, team)
    _check_out(wish.out)
    parent = _parent(wish)
    leakage.check_patients(cohort.rows)
    roles = {row.case_id: f"role {row.role}" for row in cohort.rows}
    leakage.check_pixels(cohort.rows, roles)
    developing = cohort.of_role(DEVELOPMENT)
    order = Order(cohort.id, wish.folds, wish.recipe.seed)
    known = runs.family(wish.out, order) / splits.SPLITS_NAME
    drawn = (
        splits.obtain(known, developing.rows, order)
        if known.exists()
        else splits.draw(developing.rows, order)
    )
    given = development(developing.rows, developing.crops, wish.stage, drawn)
    heldout = _heldout(cohort, wish.stage)
    origins = _origins(wish.recipe, parent, given, heldout)
    starting_weights(wish.recipe, origins.of(ALL))  # refuses what does not fit
    key = Key(
        stage=wish.stage,
        snapshot_id=cohort.id,
        folds=wish.folds,
        seed=wish.recipe.seed,
        recipe=wish.recipe.model_dump(mode="json"),
        initial=origins.words,
        parent_weights_sha256=origins.parent.weights_sha256 if origins.parent else None,
        device=team.device.type,
        world=team.world,
        libraries=libraries(),
    )
    return Prepared(wish, cohort, drawn, given, heldout, origins, key)


def _check_batch(recipe: Recipe, team: Team) -> None:
    if recipe.batch % team.world:
        raise SettingsError(
            f"a batch of {recipe.batch} cannot be shared equally by {team.world} "
            "processes: start as many as divide it"
        )


def _check_out(out: Path) -> None:
    """Refuse a folder that cannot be one, before hours are spent; create nothing."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise SettingsError(f"{there} is no folder: choose another --out")


def _heldout(cohort: Snapshot, stage: Stage) -> Cases:
    part = cohort.of_role(HOLDOUT)
    cases = cases_of(part.rows, part.crops, stage)
    check_enough(stage, "held-out (role holdout)", cases.data)
    leakage.check_contrast(cases.case_ids, cases.data.crops)
    return cases


def _parent(wish: Wish) -> Path | None:
    """Return the folder of the SLN model that stage II starts from.

    Raises:
        SettingsError: There is none.
    """
    if wish.stage is Stage.SLN or wish.parent is not None:
        return wish.parent
    found = [
        model
        for model in models.installed(wish.out)
        if model.name == MODEL_NAMES[Stage.SLN]
    ]
    if not found:
        raise SettingsError(
            f"stage II starts from stage I: train --stage sln into {wish.out} first, "
            "or name its folder with --parent"
        )
    return models.folder(wish.out, found[-1].name, found[-1].version)


def _named(recipe: Recipe) -> str:
    if recipe.init == RANDOM:
        return "random weights"
    if recipe.init == PROCEDURAL:
        return "the shipped trunk, pre-trained on procedural images"
    return f"{Path(recipe.init).name}, SHA-256 {recipe.init_sha256}"


def _origins(
    recipe: Recipe, parent: Path | None, given: Development, heldout: Cases
) -> Origins:
    """Return what the networks start from.

    Each fold of stage II starts from stage I of the same fold: the network of all
    development cases has seen those that the fold is tested on.

    Raises:
        SettingsError: Stage I saw the held-out cases, or was trained on other folds.
    """
    if parent is None:
        return Origins(_named(recipe), pretrained(recipe))
    trunk = load_stage(parent, torch.device("cpu"))
    manifest, weights = trunk.manifest, trunk.network.state_dict()
    run = runs.producing(parent.parents[1], manifest.weights_sha256)
    if run is None:
        words = f"{manifest.reference}, for every fold: taken to have seen none of them"
        return Origins(words, weights, parent=manifest)
    before = runs.read_oof(run)
    seen = set(before.pixels)
    both = leakage.learned(heldout.case_ids, heldout.pixels, seen)
    if both:
        raise SettingsError(
            f"{manifest.reference} was trained on {leakage.named(both)}, which are "
            "held out here: start from another model"
        )
    if seen.isdisjoint(given.cases.pixels):
        return Origins(
            f"{manifest.reference}, of other cases", weights, parent=manifest
        )
    _check_same_folds(before, given, manifest)
    names = [f"fold-{fold}" for fold in np.unique(given.folds).tolist()]
    each = {name: weights_of(run, name) for name in names}
    missing = [name for name, start in each.items() if start is None]
    if missing:
        raise SettingsError(f"{run / missing[0]} is damaged: train stage I again")
    return Origins(
        f"{manifest.reference}, each fold from its own",
        weights,
        {name: start for name, start in each.items() if start is not None},
        manifest,
    )


def _check_same_folds(
    before: OutOfFold, given: Development, manifest: Manifest
) -> None:
    """Refuse a stage I whose folds are others: it saw what stage II is tested on."""
    folds = dict(zip(before.pixels, before.folds.tolist(), strict=True))
    moved = [
        case_id
        for case_id, pixels, fold in zip(
            given.cases.case_ids, given.cases.pixels, given.folds.tolist(), strict=True
        )
        if folds.get(pixels, fold) != fold
    ]
    if moved:
        raise SettingsError(
            f"{manifest.reference} was cross-validated on other folds (such as "
            f"{leakage.named(moved)}), so its networks have seen what stage II is "
            "tested on: train both stages with the same cohort, --folds and --seed"
        )
