"""The recipe of a training run: every number of it, and the named presets."""

from enum import StrEnum
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from worker.manifest import Architecture

STOCK: Final = Architecture(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1), map_size=2)
"""torchvision's ResNet18: a map of 2x2 at 64x64."""

DILATED: Final = Architecture()
"""The served network: a map of 8x8."""

PROCEDURAL: Final = "procedural"
RANDOM: Final = "none"
"""Initialisations that are no file: the shipped trunk, and no pre-training at all."""


class Augmentation(StrEnum):
    """How training varies a crop (70, 70): random 64x64 crop, or affine and tone."""

    CROP = "crop"
    AFFINE = "affine"


class Schedule(StrEnum):
    """How the learning rate falls.

    `step-cosine` warms up over a tenth of the steps and falls to 0 at every step;
    `epoch-cosine` falls after each epoch, to `final_rate` after the last.
    """

    STEP_COSINE = "step-cosine"
    EPOCH_COSINE = "epoch-cosine"


class Head(StrEnum):
    """Where the head is from: a regression on the frozen trunk, or learned with it."""

    LOGISTIC = "logistic"
    LEARNED = "learned"


class Recipe(BaseModel):
    """One stage's training; the same recipe, seed and threads give the same weights.

    `init` is `procedural` (the shipped trunk), `none` or the path of a weight file,
    which needs `init_sha256`. With a `logistic` head the trunk stays frozen, and the
    head is a regression on the averages of `head_from` to layer4 over `views` turned
    and mirrored crops; `epochs` of the whole network may follow, kept only where inner
    folds gain. With a `learned` head the whole network is trained for `epochs`.

    `coarse_epochs` run first, with stock strides and the same weights, at a third of
    the cost; `epochs` train the network in the shape in which it is calibrated,
    served and explained. `target_sensitivity` of None fixes the threshold at 0.5.
    `feature_gate` publishes how far from the training crops a crop may be;
    `side_tolerance` is the factor by which a rectangle's side may lie beyond them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    init: str = PROCEDURAL
    init_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    head: Head = Head.LEARNED
    head_from: Literal[1, 2, 3, 4] = 4
    views: int = Field(default=8, ge=1, le=8)
    dilated: bool = True
    coarse_epochs: int = Field(default=0, ge=0)
    coarse_rate: float = Field(default=0.05, gt=0)
    epochs: int = Field(ge=0)
    rate: float = Field(gt=0)
    schedule: Schedule = Schedule.STEP_COSINE
    final_rate: float = Field(default=0.0, ge=0)
    batch: int = Field(default=32, ge=2)
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_norms: bool = False
    augmentation: Augmentation = Augmentation.AFFINE
    autocast: bool = False
    calibration_share: float = Field(default=0.2, gt=0, lt=1)
    target_sensitivity: float | None = 0.9
    feature_gate: bool = True
    side_tolerance: float = Field(default=1.25, ge=1)
    seed: int = 1
    threads: int = Field(default=2, ge=1)

    @property
    def architecture(self) -> Architecture:
        """Shape of the network that is published."""
        layers = tuple(range(self.head_from, 5))
        shape = DILATED if self.dilated else STOCK
        return shape.model_copy(update={"head_layers": layers})


PAPER: Final = Recipe(
    preset="paper",
    init=RANDOM,
    dilated=False,
    epochs=20,
    rate=0.005,
    schedule=Schedule.EPOCH_COSINE,
    final_rate=1e-6,
    decay_norms=True,
    augmentation=Augmentation.CROP,
    target_sensitivity=None,
)
"""Chen et al.: random crop only, SGD 0.005, 20 epochs, cosine, threshold 0.5.

The published code steps its schedule before each epoch, so that no epoch runs at the
stated rate and the last one at 1e-6, all but wasted. That is not copied: the schedule
steps after each epoch, as PyTorch documents and the paper states.
"""

DEFAULT: Final = Recipe(
    preset="default", head=Head.LOGISTIC, head_from=2, epochs=0, rate=0.001
)
"""A logistic head on the frozen, shipped trunk: seconds, and best on new scanners."""

DEMO: Final = DEFAULT.model_copy(
    update={
        "preset": "demo",
        "views": 1,
        "autocast": True,
        "feature_gate": False,
        "side_tolerance": 1.75,
        "threads": 1,
    }
)
"""The default on phantoms, for the demonstration.

What learned from phantoms has never seen anything like a real breast, so a feature
gate would hold real studies (6 of 13 annotated lesions tried): it is switched off, and
says so. The reader of the phantoms leaves 3-9 mm around a lesion, real ones may leave
none: hence the tolerance.

One thread: a second saves a third of the time on an idle machine, and costs many
times the time where both wait for each other on a busy one.
"""

DEMO_STAGE_TWO: Final = DEMO.model_copy(update={"side_tolerance": 2.1})
"""Stage II of the demonstration.

Small lesions are rare among its SLN-positive cases: the tolerance reaches to the same
shortest side.
"""

CI: Final = DEFAULT.model_copy(
    update={"preset": "ci", "views": 1, "autocast": True, "threads": 1}
)
"""The default with one view, for tests that only need it to work."""

PRESETS: Final = {recipe.preset: recipe for recipe in (PAPER, DEFAULT, DEMO, CI)}
