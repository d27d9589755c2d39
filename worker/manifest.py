"""The manifest of a model: everything that serving needs to know besides weights.

A model on disk is `MODELS_DIR/<name>/<version>/` with `manifest.json`,
`model.safetensors` and `MODEL_CARD.md`; one stage per model. This module needs no
torch, so that the command line and the dispatcher can read manifests.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from dicom_node.errors import SettingsError
from dicom_node.findings import Proportion, Stage

FORMAT_VERSION: Final = 3
"""1 had no `quality`; models of that format serve without those checks. Up to 2 the
head read layer4 alone."""

MANIFEST_NAME: Final = "manifest.json"
WEIGHTS_NAME: Final = "model.safetensors"
CARD_NAME: Final = "MODEL_CARD.md"
CHANCE_AUC: Final = 0.5
NO_BETTER_THAN_CHANCE: Final = (
    "NO BETTER THAN CHANCE: the 95% interval of its held-out AUC includes 0.5"
)
MAX_MANIFEST_BYTES: Final = 1 << 20

PROPORTION_KEYS: Final = frozenset({"k", "n", "low", "high"})


def _only_known_keys(value: object) -> object:
    """Refuse unknown keys: pydantic ignores them in a standard dataclass."""
    if isinstance(value, Mapping) and set(value) != PROPORTION_KEYS:
        raise ValueError(f"a proportion has the keys {sorted(PROPORTION_KEYS)}")
    return value


def _in_order(value: Proportion) -> Proportion:
    if not (0 <= value.k <= value.n and 0 <= value.low <= value.high <= 1):
        raise ValueError("a proportion needs 0 <= k <= n and 0 <= low <= high <= 1")
    return value


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]
"""A part of a path: lower case, digits, dot and hyphen, never hidden."""

Probability = Annotated[float, Field(ge=0, le=1)]
Percentile = Annotated[float, Field(ge=0, le=100)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rate = Annotated[
    Proportion, BeforeValidator(_only_known_keys), AfterValidator(_in_order)
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Architecture(_Frozen):
    """Shape of the network; equal in training, calibration, serving and CAM.

    `strides` and `dilations` belong to layer1..layer4. The default turns the
    strides of layer3 and layer4 into dilation, so that a 64x64 input gives an 8x8
    map; torchvision's stock ResNet18 is (1, 2, 2, 2), (1, 1, 1, 1) and map 2.
    The head is linear on the global averages of `head_layers`; several need maps of
    one size, so that their sum can be shown.
    """

    name: Literal["resnet18"] = "resnet18"
    strides: tuple[int, int, int, int] = (1, 2, 1, 1)
    dilations: tuple[int, int, int, int] = (1, 1, 2, 4)
    map_size: int = Field(default=8, ge=1)
    head_layers: tuple[Literal[1, 2, 3, 4], ...] = Field(default=(4,), min_length=1)

    @model_validator(mode="after")
    def _head_layers_fit(self) -> Self:
        layers = self.head_layers
        if layers[-1] != len(self.strides) or list(layers) != sorted(set(layers)):
            raise ValueError("head_layers are ascending and end with layer 4")
        if any(stride != 1 for stride in self.strides[layers[0] :]):
            raise ValueError("the maps of head_layers differ in size")
        return self

    @model_validator(mode="after")
    def _strides_are_known(self) -> Self:
        if any(s not in {1, 2} for s in self.strides):
            raise ValueError("the stride of a layer is 1 or 2")
        if any(d not in {1, 2, 4, 8} for d in self.dilations):
            raise ValueError("the dilation of a layer is 1, 2, 4 or 8")
        return self


class Preprocessing(_Frozen):
    """How a slice and a rectangle become the input of the network.

    Applied in the order of the fields by `worker.preprocess` alone. `mean` and
    `sd` are those of the training crops after windowing. `phase` is the DCE phase
    that the network was trained on.
    """

    pixels: Literal["modality-lut"] = "modality-lut"
    crop: Literal["floor-ceil-clip"] = "floor-ceil-clip"
    window_percentiles: tuple[Percentile, Percentile] = (1.0, 99.5)
    resize: int = Field(default=70, ge=8)
    interpolation: Literal["bilinear-antialias"] = "bilinear-antialias"
    size: int = Field(default=64, ge=8)
    channels: Literal[3] = 3
    mean: Finite
    sd: float = Field(gt=0, allow_inf_nan=False)
    phase: str = Field(default="post-1", pattern=r"^(pre|post-[1-9][0-9]?)$")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        low, high = self.window_percentiles
        if low >= high:
            raise ValueError("window percentiles need low < high")
        if self.size > self.resize or (self.resize - self.size) % 2:
            raise ValueError("the centre crop must leave an equal margin on both sides")
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON: sorted keys, no spaces, ASCII."""
        text = json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")
        )
        return hashlib.sha256(text.encode("ascii")).hexdigest()


class Calibration(_Frozen):
    """Platt scaling: probability = sigmoid(slope * logit + intercept)."""

    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: Finite

    def probability(self, logit: float) -> float:
        """Map an uncalibrated logit difference to a probability in [0, 1]."""
        z = self.slope * logit + self.intercept
        if z >= 0:
            return 1.0 / (1.0 + math.exp(-z))
        return math.exp(z) / (1.0 + math.exp(z))  # exp never overflows this way


class OperatingThreshold(_Frozen):
    """The cut on the calibrated probability, and one sentence on how it was set."""

    value: Probability
    how: str = Field(min_length=1)


class OperatingPoint(NamedTuple):
    """What a threshold means on the held-out data."""

    sensitivity: Proportion
    specificity: Proportion


def operating_point(
    positives: Sequence[float], negatives: Sequence[float], threshold: float
) -> OperatingPoint:
    """Count calibrated probabilities at a threshold: high means score >= threshold."""
    found = sum(score >= threshold for score in positives)
    spared = sum(score < threshold for score in negatives)
    return OperatingPoint(
        sensitivity=Proportion.wilson(found, len(positives)),
        specificity=Proportion.wilson(spared, len(negatives)),
    )


class Performance(_Frozen):
    """Held-out performance on `dataset`; the proportions are at the model's threshold.

    `auc_low` and `auc_high` bound the 95% DeLong interval on the logit scale.
    `positives` and `negatives` are the calibrated probabilities of the held-out
    cases, ascending, so that another threshold of a site can be described too.
    """

    dataset: str = Field(min_length=1)
    n: int = Field(gt=0)
    auc: Probability
    auc_low: Probability
    auc_high: Probability
    sensitivity: Rate
    specificity: Rate
    positives: tuple[Probability, ...] = Field(min_length=1, repr=False)
    negatives: tuple[Probability, ...] = Field(min_length=1, repr=False)

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        counts = (len(self.positives), len(self.negatives))
        if counts != (self.sensitivity.n, self.specificity.n):
            raise ValueError(f"{counts} scores do not fit the proportions")
        if sum(counts) != self.n:
            raise ValueError(f"{counts} scores are not n = {self.n} cases")
        return self

    @property
    def beats_chance(self) -> bool:
        """Whether the 95% interval of the AUC lies above 0.5."""
        return self.auc_low > CHANCE_AUC

    def at(self, threshold: float) -> OperatingPoint:
        """Count the held-out cases at a threshold: high means score >= threshold."""
        return operating_point(self.positives, self.negatives, threshold)


class SizeRange(_Frozen):
    """Sides in mm of the rectangles that a model learned from, shortest and longest.

    `tolerance` is the factor by which a side may lie beyond them in service.
    """

    shortest: float = Field(gt=0, allow_inf_nan=False)
    longest: float = Field(gt=0, allow_inf_nan=False)
    tolerance: float = Field(ge=1, allow_inf_nan=False)

    @model_validator(mode="after")
    def _sides_are_ordered(self) -> Self:
        if self.shortest > self.longest:
            raise ValueError("the shortest side is longer than the longest")
        return self

    @property
    def limits(self) -> tuple[float, float]:
        """Shortest and longest side that is let pass."""
        return self.shortest / self.tolerance, self.longest * self.tolerance


class FeatureGate(_Frozen):
    """How far a crop's features may be from those of training, and why so far.

    `reason` says how the limit was set, or why the check is switched off. `limit` is
    a Mahalanobis distance, 1 for a typical case; mean and whitening are tensors
    among the weights. `n` cases set the limit.
    """

    enabled: bool
    reason: str = Field(min_length=1)
    limit: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    n: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.enabled and (self.limit is None or self.n is None):
            raise ValueError("a feature gate in force needs a limit and its n")
        return self


class QualityGate(_Frozen):
    """What the quality gate needs to know of a model; absent parts are not checked."""

    sides: SizeRange | None = None
    features: FeatureGate | None = None


class TrainingRecord(_Frozen):
    """What is needed to repeat the training run.

    `config` holds every number of the recipe. On a CPU the same config, seed,
    thread count and libraries give the same weights.
    """

    preset: str
    seed: int
    threads: int = Field(ge=1)
    config: dict[str, int | float | str | bool | None]
    libraries: dict[str, str]
    parent_weights_sha256: Sha256 | None = None


class Manifest(_Frozen):
    """One model of one stage, as `manifest.json` holds it.

    `heat_range` is the fixed colour scale (low, high) of the class activation map
    in units of the logit difference.
    """

    format_version: Literal[1, 2, 3] = FORMAT_VERSION
    name: Slug
    version: Slug
    stage: Stage
    architecture: Architecture
    preprocessing: Preprocessing
    calibration: Calibration
    operating_threshold: OperatingThreshold
    performance: Performance
    heat_range: tuple[Finite, Finite]
    quality: QualityGate | None = None
    weights_sha256: Sha256
    trained_on: str = Field(min_length=1)
    training: TrainingRecord
    created_at: AwareDatetime

    @model_validator(mode="after")
    def _heat_range_is_ordered(self) -> Self:
        if not self.heat_range[0] < self.heat_range[1]:
            raise ValueError("heat_range needs low < high")
        return self

    @model_validator(mode="after")
    def _format_has_the_quality_gate(self) -> Self:
        if self.format_version == 1 and self.quality is not None:
            raise ValueError("quality needs format version 2")
        return self

    @model_validator(mode="after")
    def _format_has_the_head_layers(self) -> Self:
        if (
            self.format_version < FORMAT_VERSION
            and len(self.architecture.head_layers) > 1
        ):
            raise ValueError("a head on several layers needs format version 3")
        return self

    @model_validator(mode="after")
    def _performance_is_at_the_threshold(self) -> Self:
        counted = self.performance.at(self.operating_threshold.value)
        stated = (self.performance.sensitivity.k, self.performance.specificity.k)
        if (counted.sensitivity.k, counted.specificity.k) != stated:
            raise ValueError(
                f"k = {stated} disagrees with the scores at the operating threshold"
            )
        return self

    @property
    def preprocessing_sha256(self) -> str:
        """SHA-256 of the canonical JSON of `preprocessing`."""
        return self.preprocessing.sha256

    @property
    def reference(self) -> str:
        """NAME@VERSION, as people and `models activate` write it."""
        return f"{self.name}@{self.version}"


def describe_gate(manifest: Manifest) -> tuple[str, str]:
    """Say what the quality gate checks of a model: size, then features."""
    gate = manifest.quality or QualityGate()
    size = "size of the rectangle: not checked, the model does not state its range"
    if gate.sides is not None:
        low, high = gate.sides.limits
        size = (
            f"sides of the rectangle: {low:.1f}-{high:.1f} mm (training "
            f"{gate.sides.shortest:.1f}-{gate.sides.longest:.1f} mm, tolerance "
            f"{gate.sides.tolerance:g})"
        )
    features = "features: not checked, the model does not state theirs"
    if gate.features is not None and gate.features.limit is not None:
        features = f"features: distance up to {gate.features.limit:.2f}"
        features += f" ({gate.features.reason})"
    if gate.features is not None and not gate.features.enabled:
        features = f"features: switched off, {gate.features.reason}"
    return size, features


def read(folder: Path) -> Manifest:
    """Read the manifest of the model in a folder.

    Raises:
        SettingsError: The file is missing, too large, or not a manifest; the
            message names the file and every faulty field.
    """
    path = folder / MANIFEST_NAME
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise SettingsError(f"{path} is larger than {MAX_MANIFEST_BYTES} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    _refuse_newer(path, content)
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise SettingsError(f"{path} is not a model manifest: {faults}") from error


def _refuse_newer(path: Path, content: bytes) -> None:
    """Say plainly that a manifest was written by a later version.

    Raises:
        SettingsError: It was.
    """
    try:
        said = json.loads(content)
    except ValueError:
        return  # validation says what is wrong
    version = said.get("format_version") if isinstance(said, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise SettingsError(
            f"{path} has format {version}, this version reads formats up to "
            f"{FORMAT_VERSION}: update Sentinode, or use an older model"
        )


def write(folder: Path, manifest: Manifest) -> Path:
    """Write `manifest.json` whole or not at all, and return its path."""
    path = folder / MANIFEST_NAME
    content = manifest.model_dump_json(indent=2).encode("utf-8") + b"\n"
    handle, name = tempfile.mkstemp(dir=folder, prefix=".manifest-")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise
    return path
