"""What was marked, chosen and found: the values that pass from ROI to report."""

import math
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dicom_node.study import SopInstanceUid

Z95: Final = 1.959963984540054
"""Two-sided 95% quantile of the standard normal distribution."""


class Carrier(StrEnum):
    """What carried a rectangle: a kind of DICOM object, or a person's command."""

    GSPS = "GSPS"
    SR = "SR"
    SCOORD3D = "SCOORD3D"
    SEG = "SEG"
    RTSTRUCT = "RTSTRUCT"
    OVERLAY = "OVERLAY"
    MANUAL = "MANUAL"


class Laterality(StrEnum):
    """Side of the breast; bilateral disease is two cases."""

    LEFT = "L"
    RIGHT = "R"


class Stage(StrEnum):
    """The two networks: ResNet18-I predicts SLN, ResNet18-II NSLN metastasis."""

    SLN = "SLN"
    NSLN = "NSLN"


class StageStatus(StrEnum):
    """Whether a stage ran, and if not, why not."""

    DONE = "done"
    PENDING = "pending"
    EXCLUDED = "excluded"
    NOT_INDICATED = "not_indicated"
    CONDITIONAL = "conditional"


class Risk(StrEnum):
    """High means probability >= threshold, both unrounded."""

    LOW = "low"
    HIGH = "high"


class Pathway(StrEnum):
    """Where a case stands in the clinical pathway of the paper (Fig. 1)."""

    SLN_LOW_RISK = "sln_low_risk"
    AWAITING_SLND = "awaiting_slnd"
    SLN_NEGATIVE = "sln_negative"
    NSLN_LOW_RISK = "nsln_low_risk"
    NSLN_HIGH_RISK = "nsln_high_risk"


class Slnd(StrEnum):
    """Result of sentinel lymph node dissection; withdrawn re-opens the case."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    WITHDRAWN = "withdrawn"


class Deposit(StrEnum):
    """Size class of the nodal deposit (AJCC): > 2 mm, 0.2-2 mm, isolated cells."""

    MACRO = "macro"
    MICRO = "micro"
    ITC = "itc"


def deposit_result(deposit: Deposit, *, itc_is_positive: bool = False) -> Slnd:
    """Say what a deposit makes of the dissection: above 0.2 mm is positive.

    Isolated tumour cells, pN0(i+), are negative unless the site has another rule.
    """
    if deposit is Deposit.ITC and not itc_is_positive:
        return Slnd.NEGATIVE
    return Slnd.POSITIVE


class StageTwo(StrEnum):
    """When stage II runs: after a positive dissection, or at once and conditionally."""

    ON_SLND = "on_slnd"
    CONDITIONAL = "conditional"


class ParkReason(StrEnum):
    """Why an SLND result that came belongs to no case yet; stable codes."""

    UNKNOWN_PATIENT = "unknown_patient"
    NO_CASE = "no_case"
    BEFORE_MRI = "before_mri"
    OUTSIDE_WINDOW = "outside_window"
    AMBIGUOUS = "ambiguous"
    SIDE_UNKNOWN = "side_unknown"
    SIDE_CONTRADICTS = "side_contradicts"
    RESULT_UNKNOWN = "result_unknown"
    RESULT_CONTRADICTS = "result_contradicts"
    DATE_UNKNOWN = "date_unknown"
    CONTRADICTS_RECORD = "contradicts_record"
    NOTHING_TO_WITHDRAW = "nothing_to_withdraw"


@dataclass(frozen=True, slots=True)
class Roi:
    """One rectangle that a person drew, in continuous pixels of the marked image.

    (0, 0) is the outer top-left corner of the first pixel; x grows along a row
    (columns), y down the rows (PS3.3 C.10.5.1.2). `frame` counts from 1.
    `carrier_sop_instance_uid` is None when a person set it without a document.
    `exact` is False when the rectangle was derived from another shape. `adjudicator`
    says that its author decides between other readers (NCIt C96561). `by_position`
    says that the carrier names no image: the rectangle lies on this one, and on every
    other one at the same position, because of its place in the patient. `laterality`
    is the side that the person who set it by hand stated; None, where nobody did.
    """

    sop_instance_uid: SopInstanceUid
    frame: int
    x0: float
    y0: float
    x1: float
    y1: float
    carrier: Carrier
    carrier_sop_instance_uid: SopInstanceUid | None
    author: str | None = None
    label: str | None = None
    tracking_uid: str | None = None
    marked_at: datetime | None = None
    exact: bool = True
    adjudicator: bool = False
    by_position: bool = False
    laterality: Laterality | None = None

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1)."""
        return (self.x0, self.y0, self.x1, self.y1)


@dataclass(frozen=True, slots=True)
class Selection:
    """The slice to analyse for one side, and every reason for the choice.

    `roi` names the marked image; `sop_instance_uid`, `frame` and `path` name the
    analysed one, the same rectangle on the model's DCE phase. `path` is absolute.
    `area_mm2` is the rectangle's; `candidates` counts the rectangles considered.
    """

    roi: Roi
    sop_instance_uid: SopInstanceUid
    frame: int
    path: Path
    phase: str
    laterality: Laterality
    laterality_derived: bool
    area_mm2: float
    candidates: int
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Proportion:
    """k of n, with a 95% Wilson interval; value = k / n."""

    k: int
    n: int
    low: float
    high: float

    @classmethod
    def wilson(cls, k: int, n: int) -> Self:
        """Return k of n with its 95% Wilson score interval.

        Raises:
            ValueError: n is not positive, or k is not in 0..n.
        """
        if not 0 <= k <= n or n == 0:
            raise ValueError(f"{k} of {n} is not a proportion")
        z2 = Z95 * Z95
        middle = (k + z2 / 2) / (n + z2)
        half = Z95 * math.sqrt(k * (n - k) / n + z2 / 4) / (n + z2)
        low = 0.0 if k == 0 else middle - half  # exact where rounding would not be
        return cls(k, n, low, 1.0 if k == n else middle + half)

    @property
    def value(self) -> float:
        """The point estimate k / n, in [0, 1]."""
        return self.k / self.n


@dataclass(frozen=True, slots=True)
class StageFinding:
    """What one stage says of one case.

    Every field but `stage` and `status` is None when the stage did not run.
    `probability` and `threshold` lie in [0, 1], unrounded. `heat` is the class
    activation map on the analysed slice's grid: (rows, columns) float32 in units
    of the logit difference, NaN outside the network's field of view. `heat_range`
    is the fixed scale (low, high) of the model's colour bar, in the same units.
    `torch_version` to `code_version` say what computed the probability: the same
    crop on the same `cpu` (a kind, not a host) gives the same bits. `batch` is the
    shape of the forward pass.
    """

    stage: Stage
    status: StageStatus
    probability: float | None = None
    threshold: float | None = None
    threshold_source: str | None = None
    risk: Risk | None = None
    sensitivity: Proportion | None = None
    specificity: Proportion | None = None
    dataset: str | None = None
    model: str | None = None
    weights_sha256: str | None = None
    preprocessing_sha256: str | None = None
    device: str | None = None
    torch_version: str | None = None
    cpu: str | None = None
    threads: int | None = None
    batch: str | None = None
    code_version: str | None = None
    heat: NDArray[np.float32] | None = None
    heat_range: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class SlndResult:
    """An SLND result as recorded: append-only, a correction is a new one."""

    result: Slnd
    deposit: Deposit | None
    performed_on: date | None
    source: str
    recorded_at: datetime
    slnd_id: int | None = None


@dataclass(frozen=True, slots=True)
class CaseFinding:
    """Everything that one version of one case's report says."""

    result_id: str
    version: int
    selection: Selection
    pathway: Pathway
    sln: StageFinding
    nsln: StageFinding
    slnd: SlndResult | None
    discordant: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Document:
    """An encoded DICOM Part 10 file that belongs to one result; bytes are frozen."""

    kind: str
    sop_class_uid: str
    sop_instance_uid: SopInstanceUid
    sha256: str
    content: bytes
