"""Reading our own report back: what a peer that received it can know."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.attributes import readable, text
from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import (
    Laterality,
    Pathway,
    Risk,
    Slnd,
    Stage,
    StageStatus,
)
from dicom_node.report import codes

ALGORITHM_NAME: Final = "111001"
ALGORITHM_PARAMETERS: Final = "111002"
ALGORITHM_VERSION: Final = "111003"
LATERALITY: Final = "272741003"
TRACKING_IDENTIFIER: Final = "112039"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class StageValues:
    """What the report says of one stage; None where it says nothing.

    `probability` and `threshold` are in [0, 1]; the report holds percent in double
    precision, so the last digit may differ from what was written.
    """

    stage: Stage
    status: StageStatus
    probability: float | None
    threshold: float | None
    risk: Risk | None
    model_name: str | None
    model_version: str | None
    weights_sha256: str | None
    device: str | None
    threshold_source: str | None
    performance: str | None


@dataclass(frozen=True, slots=True)
class ReportValues:
    """What a report of ours says. `phase` is without the word "phase:"."""

    study_uid: str
    sop_instance_uid: str
    complete: bool
    final: bool
    verified: bool
    research: bool
    laterality: Laterality
    laterality_derived: bool
    phase: str
    pathway: Pathway
    slnd: Slnd | None
    discordant: bool
    predecessors: tuple[str, ...]
    summary: str
    sln: StageValues
    nsln: StageValues


def read_report(dataset: Dataset) -> ReportValues:
    """Read the values of a structured report that Sentinode wrote.

    Raises:
        UnreadableObjectError: Not a report of ours, or a part is missing.
    """
    with readable("the report"):
        groups = {_group_title(item): item for item in _walk(dataset)}
        lesion, sln, nsln = (groups[title] for title in codes.TITLES)
        return ReportValues(
            study_uid=text(dataset, "StudyInstanceUID"),
            sop_instance_uid=text(dataset, "SOPInstanceUID"),
            complete=dataset.CompletionFlag == "COMPLETE",
            final=dataset.PreliminaryFlag == "FINAL",
            verified=dataset.VerificationFlag == "VERIFIED",
            research=dataset.ContentQualification == "RESEARCH",
            laterality=_required(lesion, LATERALITY, codes.SIDES),
            laterality_derived="derived" in (_text(lesion, codes.SIDE_SOURCE) or ""),
            phase=(_text(lesion, codes.PHASE) or "").removeprefix("phase: "),
            pathway=_required(lesion, codes.PATHWAY.value, codes.PATHWAYS),
            slnd=_meaning(nsln, codes.SENTINEL_BIOPSY.value, codes.BIOPSY_RESULTS),
            discordant=_text(nsln, codes.DISCORDANCE) is not None,
            predecessors=tuple(_predecessors(dataset)),
            summary=_text(dataset, codes.SUMMARY) or "",
            sln=_stage(sln, Stage.SLN),
            nsln=_stage(nsln, Stage.NSLN),
        )


def _stage(group: Dataset, stage: Stage) -> StageValues:
    parameters = dict(
        text(item, "TextValue").partition("=")[::2]
        for item in _named(group, ALGORITHM_PARAMETERS)
    )
    return StageValues(
        stage=stage,
        status=_required(group, codes.STAGE_STATUS.value, codes.STATUSES),
        probability=_fraction(group, codes.PROBABILITY[stage]),
        threshold=_fraction(group, codes.THRESHOLD),
        risk=_meaning(group, codes.RISK[stage].value, codes.RISKS),
        model_name=_first_text(group, ALGORITHM_NAME),
        model_version=_first_text(group, ALGORITHM_VERSION),
        weights_sha256=parameters.get("weights-sha256"),
        device=parameters.get("device"),
        threshold_source=_text(group, codes.THRESHOLD_SOURCE),
        performance=_text(group, codes.PERFORMANCE),
    )


def _walk(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or ():
        yield child
        yield from _walk(child)


def _named(item: Dataset, code_value: str) -> Iterator[Dataset]:
    for child in _walk(item):
        names = child.get("ConceptNameCodeSequence") or ()
        if names and text(names[0], "CodeValue") == code_value:
            yield child


def _group_title(item: Dataset) -> str:
    for child in item.get("ContentSequence") or ():
        names = child.get("ConceptNameCodeSequence") or ()
        if names and text(names[0], "CodeValue") == TRACKING_IDENTIFIER:
            return text(child, "TextValue")
    return ""


def _first_text(item: Dataset, code_value: str) -> str | None:
    return next((text(one, "TextValue") for one in _named(item, code_value)), None)


def _text(item: Dataset, name: Code) -> str | None:
    return _first_text(item, name.value)


def _fraction(item: Dataset, name: Code) -> float | None:
    for one in _named(item, name.value):
        return float(one.MeasuredValueSequence[0].FloatingPointValue) / 100.0
    return None


def _meaning(
    item: Dataset, code_value: str, table: Mapping[Value, Code]
) -> Value | None:
    for one in _named(item, code_value):
        said = text(one.ConceptCodeSequence[0], "CodeValue")
        return next((key for key, code in table.items() if code.value == said), None)
    return None


def _required(item: Dataset, code_value: str, table: Mapping[Value, Code]) -> Value:
    value = _meaning(item, code_value, table)
    if value is None:
        raise UnreadableObjectError(f"the report says nothing of {code_value}")
    return value


def _predecessors(dataset: Dataset) -> Iterator[str]:
    for study in dataset.get("PredecessorDocumentsSequence") or ():
        for series in study.ReferencedSeriesSequence:
            for instance in series.ReferencedSOPSequence:
                yield text(instance, "ReferencedSOPInstanceUID")
