"""What a report says in ten seconds: a few sentences for a person, at its top.

They repeat what the coded items below them say, and nothing else.
"""

from decimal import Decimal
from typing import Final

from dicom_node.findings import (
    CaseFinding,
    Deposit,
    Risk,
    Slnd,
    SlndResult,
    Stage,
    StageFinding,
    StageStatus,
)

LINE_BREAK: Final = "\r\n"
"""Ends a line in a text value (PS3.5 6.1.3)."""

RESEARCH_ONLY: Final = "RESEARCH USE ONLY. Not for diagnosis or treatment."
MAX_DECIMALS: Final = 17
"""With so many decimals, unequal doubles between 0 and 100 look unequal."""

STAGES: Final = {
    Stage.SLN: "Stage I, sentinel lymph node (SLN) metastasis",
    Stage.NSLN: "Stage II, non-sentinel lymph node (NSLN) metastasis",
}
RISKS: Final = {Risk.HIGH: "HIGH risk", Risk.LOW: "LOW risk"}
SLND: Final = "Sentinel lymph node dissection (SLND)"
RESULTS: Final = {
    Slnd.POSITIVE: "positive",
    Slnd.NEGATIVE: "negative",
    Slnd.WITHDRAWN: "the result was withdrawn",
}
DEPOSITS: Final = {
    Deposit.MACRO: "macrometastasis",
    Deposit.MICRO: "micrometastasis",
    Deposit.ITC: "isolated tumour cells",
}
NOT_RUN: Final = {
    StageStatus.PENDING: "not run, it waits for the SLND result",
    StageStatus.EXCLUDED: "not run, the SLND result excludes it",
    StageStatus.NOT_INDICATED: "not run, stage I found low risk",
}
AWAITED: Final = "Awaited: the SLND result of this side; a new report will follow."
NOTHING_AWAITED: Final = "Awaited: nothing. This report is complete."
DISCORDANT: Final = (
    "DISCORDANT: stage I said low risk, and sentinel lymph node dissection found "
    "metastasis."
)


def summary(case: CaseFinding) -> str:
    """Say what was found on which side, by which model, and what is awaited."""
    selection = case.selection
    side = f"{selection.laterality.name.capitalize()} breast"
    if selection.laterality_derived:
        side += " (side derived from the position)"
    awaited = case.nsln.status in {StageStatus.PENDING, StageStatus.CONDITIONAL}
    lines = [
        RESEARCH_ONLY,
        f"{side}. Version {case.version} of this report.",
        f"{STAGES[Stage.SLN]}: {_stage(case.sln)}.",
        f"{SLND}: {_slnd(case.slnd)}.",
        f"{STAGES[Stage.NSLN]}: {_stage(case.nsln)}.",
        *([DISCORDANT] if case.discordant else []),
        AWAITED if awaited else NOTHING_AWAITED,
    ]
    return LINE_BREAK.join(lines)


def _stage(finding: StageFinding) -> str:
    if finding.probability is None or finding.threshold is None:
        return NOT_RUN.get(finding.status, "not run")
    probability, threshold = percentages(finding.probability, finding.threshold)
    said = f"probability {probability} %, threshold {threshold} %"
    if finding.status is StageStatus.CONDITIONAL:
        said = f"only if SLND is positive: {said}, no risk group yet"
    elif finding.risk is not None:
        said = f"{RISKS[finding.risk]}, {said}"
    return f"{said}, model {finding.model}"


def _slnd(slnd: SlndResult | None) -> str:
    if slnd is None:
        return "no result yet"
    said = [RESULTS[slnd.result]]
    if slnd.result is not Slnd.WITHDRAWN:
        if slnd.deposit is not None:
            said.append(DEPOSITS[slnd.deposit])
        if slnd.performed_on is not None:
            said.append(f"performed {slnd.performed_on:%Y-%m-%d}")
    return ", ".join(said)


def percentages(probability: float, threshold: float) -> tuple[str, str]:
    """Write two fractions as percentages, alike only when they are equal.

    One decimal is enough for people, but 49.96 must not read as 50.0 beside a
    threshold of 50.0: then as many more are shown as tell the two apart.
    """
    pair = (Decimal(probability) * 100, Decimal(threshold) * 100)
    decimals = 1
    while decimals < MAX_DECIMALS and _look_equal(*pair, decimals):
        decimals += 1
    return f"{pair[0]:.{decimals}f}", f"{pair[1]:.{decimals}f}"


def _look_equal(one: Decimal, other: Decimal, decimals: int) -> bool:
    return one != other and f"{one:.{decimals}f}" == f"{other:.{decimals}f}"
