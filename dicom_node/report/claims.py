"""What a report may claim: no risk without its numbers, no flag against its content.

These are the rules that protect a reader from our own faults. They look at the report
as a peer would read it, never at the values that it was made from.
"""

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset

from dicom_node.attributes import text
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Pathway, Risk, Slnd, StageStatus
from dicom_node.report import codes
from dicom_node.report.reading import ReportValues, StageValues, read_report
from dicom_node.report.summary import RESEARCH_ONLY

OPEN: Final = frozenset({StageStatus.PENDING, StageStatus.CONDITIONAL})
"""States of stage II in which a later report will follow."""

RAN: Final = frozenset({StageStatus.DONE, StageStatus.CONDITIONAL})
STATUSES: Final = {
    Pathway.SLN_LOW_RISK: {StageStatus.NOT_INDICATED, StageStatus.CONDITIONAL},
    Pathway.AWAITING_SLND: {StageStatus.PENDING, StageStatus.CONDITIONAL},
    Pathway.SLN_NEGATIVE: {StageStatus.EXCLUDED},
    Pathway.NSLN_LOW_RISK: {StageStatus.DONE},
    Pathway.NSLN_HIGH_RISK: {StageStatus.DONE},
}
"""States that stage II can be in, at each place of the pathway."""

RISKS: Final = {
    Pathway.NSLN_LOW_RISK: Risk.LOW,
    Pathway.NSLN_HIGH_RISK: Risk.HIGH,
}
SLND: Final = {
    Pathway.SLN_LOW_RISK: None,
    Pathway.AWAITING_SLND: None,
    Pathway.SLN_NEGATIVE: Slnd.NEGATIVE,
    Pathway.NSLN_LOW_RISK: Slnd.POSITIVE,
    Pathway.NSLN_HIGH_RISK: Slnd.POSITIVE,
}


def false_claims(report: Dataset) -> Iterator[str]:
    """Name everything that a structured report of ours must not say as it does."""
    try:
        values = read_report(report)
    except UnreadableObjectError as error:
        yield str(error)
        return
    yield from _flags(report, values)
    yield from _research(report)
    for stage in (values.sln, values.nsln):
        yield from (f"stage {stage.stage}: {fault}" for fault in _stage(stage))
    yield from _pathway(values)


def _flags(report: Dataset, values: ReportValues) -> Iterator[str]:
    """Completion, preliminary and verification flag follow from stage II."""
    closed = values.nsln.status not in OPEN
    if text(report, "CompletionFlag") != ("COMPLETE" if closed else "PARTIAL"):
        yield f"CompletionFlag contradicts stage II, which is {values.nsln.status}"
    if text(report, "PreliminaryFlag") != ("FINAL" if closed else "PRELIMINARY"):
        yield f"PreliminaryFlag contradicts stage II, which is {values.nsln.status}"
    if text(report, "VerificationFlag") != "UNVERIFIED":
        yield "VerificationFlag is not UNVERIFIED: no person has attested the report"


def _research(report: Dataset) -> Iterator[str]:
    """Each group says what it may be used for, and so does the summary."""
    contained = report.ContentSequence
    summaries = [text(item, "TextValue") for item in contained if _is_summary(item)]
    if not summaries or not summaries[0].startswith(RESEARCH_ONLY):
        yield "the summary does not begin with the research use"
    groups = [
        item
        for container in contained
        for item in container.get("ContentSequence") or ()
        if _concept(item, "ConceptNameCodeSequence") == codes.MEASUREMENT_GROUP.value
    ]
    for group in groups:
        uses = [
            _concept(item, "ConceptCodeSequence")
            for item in group.get("ContentSequence") or ()
            if _concept(item, "ConceptNameCodeSequence") == codes.USE.value
        ]
        if uses != [codes.RESEARCH_USE_ONLY.value]:
            yield "a measurement group does not say that it is for research use only"


def _is_summary(item: Dataset) -> bool:
    return _concept(item, "ConceptNameCodeSequence") == codes.SUMMARY.value


def _concept(item: Dataset, keyword: str) -> str:
    return next((text(code, "CodeValue") for code in item.get(keyword) or ()), "")


def _stage(stage: StageValues) -> Iterator[str]:
    said = {
        "probability": stage.probability,
        "threshold": stage.threshold,
        "model": stage.model_name,
        "version of the model": stage.model_version,
        "digest of the weights": stage.weights_sha256,
    }
    missing = [name for name, value in said.items() if value is None or value == ""]
    if stage.risk is not None and missing:
        yield f"a risk group without {', '.join(missing)}"
    if stage.status in RAN and missing:
        yield f"it is {stage.status}, and {', '.join(missing)} is missing"
    if stage.status not in RAN and len(missing) < len(said):
        yield f"it is {stage.status}, and yet it has numbers or a model"
    if (stage.risk is not None) != (stage.status is StageStatus.DONE):
        yield f"it is {stage.status}, which goes with a risk group only when done"
    yield from _numbers(stage)


def _numbers(stage: StageValues) -> Iterator[str]:
    """Check ranges, and that the risk is the one that the numbers say.

    Percent in double precision may round two neighbours together, so equal numbers
    go with either group.
    """
    probability, threshold = stage.probability, stage.threshold
    if probability is None or threshold is None:
        return
    if not (0 <= probability <= 1 and 0 <= threshold <= 1):
        yield "probability or threshold is outside 0 to 100 %"
    if stage.risk is Risk.HIGH and probability < threshold:
        yield "high risk, and yet the probability is below the threshold"
    if stage.risk is Risk.LOW and probability > threshold:
        yield "low risk, and yet the probability is above the threshold"


def _pathway(values: ReportValues) -> Iterator[str]:
    pathway, nsln = values.pathway, values.nsln
    if nsln.status not in STATUSES[pathway]:
        yield f"the pathway is {pathway}, and yet stage II is {nsln.status}"
    if nsln.risk is not RISKS.get(pathway):
        yield f"the pathway is {pathway}, and yet stage II has another risk group"
    if values.slnd is not SLND[pathway]:
        yield f"the pathway is {pathway}, and yet the SLND result is another"
    missed = values.sln.risk is Risk.LOW and values.slnd is Slnd.POSITIVE
    if values.discordant is not missed:
        yield "the discordance contradicts stage I and the SLND result"
