"""Findings for tests of the reports: every state that a case can be in."""

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
from numpy.typing import NDArray

from dicom_node.findings import (
    CaseFinding,
    Deposit,
    Laterality,
    Pathway,
    Proportion,
    Risk,
    Selection,
    Slnd,
    SlndResult,
    Stage,
    StageFinding,
    StageStatus,
)
from dicom_node.report.device import Device

DEVICE = Device(
    uid="1.2.826.0.1.3680043.8.498.777", serial="SN-1", software_version="0.1.0"
)
THRESHOLD = 0.5
POSITIVE = SlndResult(
    Slnd.POSITIVE,
    Deposit.MACRO,
    date(2026, 4, 1),
    "cli: operator",
    datetime(2026, 4, 2, tzinfo=UTC),
)
NEGATIVE = replace(POSITIVE, result=Slnd.NEGATIVE, deposit=None)


def ran(
    stage: Stage, probability: float, heat: NDArray[np.float32] | None = None
) -> StageFinding:
    """What a stage that ran says."""
    return StageFinding(
        stage=stage,
        status=StageStatus.DONE,
        probability=probability,
        threshold=THRESHOLD,
        threshold_source="fixed at 0.5",
        risk=Risk.HIGH if probability >= THRESHOLD else Risk.LOW,
        sensitivity=Proportion(28, 31, 0.751, 0.967),
        specificity=Proportion(70, 100, 0.604, 0.781),
        dataset="phantom bench, n=131",
        model=f"{stage.value.lower()}-demo@1.2.0",
        weights_sha256="ab" * 32,
        preprocessing_sha256="cd" * 32,
        device="cpu",
        heat=heat,
        heat_range=(-4.0, 4.0),
    )


def did_not_run(status: StageStatus) -> StageFinding:
    """What stage II says when it did not run."""
    return StageFinding(Stage.NSLN, status)


def conditional(probability: float) -> StageFinding:
    """What stage II says ahead of the dissection: numbers, and no risk group."""
    ahead = ran(Stage.NSLN, probability)
    return replace(ahead, status=StageStatus.CONDITIONAL, risk=None)


def pending(selection: Selection) -> CaseFinding:
    """High risk in stage I, and the result of dissection awaited."""
    return CaseFinding(
        result_id="result-1",
        version=1,
        selection=selection,
        pathway=Pathway.AWAITING_SLND,
        sln=ran(Stage.SLN, 0.8312345678901234),
        nsln=did_not_run(StageStatus.PENDING),
        slnd=None,
        discordant=False,
        created_at=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    )


def every_case(selection: Selection) -> dict[str, CaseFinding]:
    """One case for each state that a report can tell of."""
    first = pending(selection)
    low = replace(first, sln=ran(Stage.SLN, 0.12), pathway=Pathway.SLN_LOW_RISK)
    ran_too = {"nsln": ran(Stage.NSLN, 0.31), "slnd": POSITIVE}
    return {
        "pending": first,
        "done": replace(first, **ran_too, pathway=Pathway.NSLN_LOW_RISK, version=2),
        "excluded": replace(
            first,
            nsln=did_not_run(StageStatus.EXCLUDED),
            slnd=NEGATIVE,
            pathway=Pathway.SLN_NEGATIVE,
        ),
        "not indicated": replace(low, nsln=did_not_run(StageStatus.NOT_INDICATED)),
        "discordant": replace(
            low, **ran_too, pathway=Pathway.NSLN_LOW_RISK, discordant=True
        ),
        "high twice": replace(
            first,
            nsln=ran(Stage.NSLN, 0.77),
            slnd=POSITIVE,
            pathway=Pathway.NSLN_HIGH_RISK,
            version=2,
        ),
        "withdrawn": replace(
            first, slnd=replace(POSITIVE, result=Slnd.WITHDRAWN), version=3
        ),
        "conditional": replace(first, nsln=conditional(0.31)),
        "right side": replace(
            first, selection=replace(selection, laterality=Laterality.RIGHT)
        ),
    }


def heat(
    shape: tuple[int, int], box: tuple[float, float, float, float]
) -> NDArray[np.float32]:
    """A map with a positive peak and a negative rim inside the rectangle."""
    x0, y0, x1, y1 = (int(edge) for edge in box)
    y, x = np.mgrid[: y1 - y0 - 2, : x1 - x0 - 2]
    middle = np.array([(x1 - x0) / 2, (y1 - y0) / 2])
    far = np.hypot(x - middle[0], y - middle[1]) / middle.min()
    placed = np.full(shape, np.nan, dtype=np.float32)
    placed[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = 4.0 - 6.0 * far
    return placed
