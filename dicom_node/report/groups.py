"""The measurement groups of the report: the lesion, and what each stage says of it."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.findings import (
    CaseFinding,
    Proportion,
    Slnd,
    SlndResult,
    Stage,
    StageFinding,
)
from dicom_node.report import codes
from dicom_node.report.device import Device
from dicom_node.report.reference import is_multi_frame
from dicom_node.report.summary import DISCORDANT
from dicom_node.report.uids import case_uid
from dicom_node.study import is_valid_uid

Group = sr.PlanarROIMeasurementsAndQualitativeEvaluations
MAX_NAME: Final = 64
"""Characters of one group of a person's name (PS3.5 6.2)."""

NAME_GROUPS: Final = 3
"""Alphabetic, ideographic and phonetic."""

Relationship = sr.RelationshipTypeValues


def lesion_group(case: CaseFinding, evidence: Dataset) -> Group:
    """Describe the rectangle: where, on which side, who drew it, why this slice."""
    selection = case.selection
    site = sr.FindingSite(codes.BREAST, laterality=codes.SIDES[selection.laterality])
    group = Group(
        tracking_identifier=sr.TrackingIdentifier(
            uid=tracking_uid(case, evidence),
            identifier=codes.LESION_TITLE,
        ),
        referenced_region=_region(case, evidence),
        finding_type=codes.LESION,
        finding_sites=[site],
        geometric_purpose=codes.BOUNDED_BY,
        qualitative_evaluations=[
            _intended_use(),
            sr.QualitativeEvaluation(codes.PATHWAY, codes.PATHWAYS[case.pathway]),
        ],
    )
    derived = selection.laterality_derived
    source = "derived from the position" if derived else "named in the image header"
    items: list[Dataset] = [
        _text(codes.SLICE_RULE, " ".join(selection.why)),
        _text(codes.PHASE, f"phase: {selection.phase}"),
        _text(codes.SIDE_SOURCE, f"side: {source}"),
    ]
    if selection.roi.author:
        items.extend(_reader(selection.roi.author))
    group[0].ContentSequence.extend(items)
    return group


def tracking_uid(case: CaseFinding, evidence: Dataset) -> str:
    """Return the UID of the lesion: the reader's, else one that all versions share."""
    given = case.selection.roi.tracking_uid or ""
    return given if is_valid_uid(given) else case_uid(case, evidence, "lesion")


def _reader(name: str) -> Sequence[Dataset]:
    return sr.ObserverContext(
        sr.CodedConcept.from_code(codes.PERSON),
        sr.PersonObserverIdentifyingAttributes(
            name=person_name(name), role_in_procedure=codes.READER
        ),
    )


def person_name(said: str) -> str:
    """Return text as one person's name: what a name cannot hold becomes a blank."""
    plain = "".join(" " if one in "\\\r\n\t\f\x1b" else one for one in said)
    groups = plain.split("=")[:NAME_GROUPS]
    return "=".join(group[:MAX_NAME] for group in groups)


def stage_group(
    case: CaseFinding, finding: StageFinding, evidence: Dataset, device: Device
) -> Group:
    """Describe what a stage found; a stage that did not run says only why."""
    status = codes.STATUSES[finding.status]
    evaluations = [sr.QualitativeEvaluation(codes.STAGE_STATUS, status)]
    if finding.risk is not None:
        name, value = codes.RISK[finding.stage], codes.RISKS[finding.risk]
        evaluations.append(sr.QualitativeEvaluation(name, value))
    evaluations.append(_intended_use())
    if finding.stage is Stage.NSLN and case.slnd is not None:
        evaluations.extend(_biopsy(case.slnd))
    group = Group(
        tracking_identifier=sr.TrackingIdentifier(
            uid=case_uid(case, evidence, finding.stage),
            identifier=codes.STAGE_TITLES[finding.stage],
        ),
        referenced_region=_region(case, evidence),
        algorithm_id=_algorithm(case, finding, device),
        measurements=_measurements(finding),
        qualitative_evaluations=evaluations,
    )
    group[0].ContentSequence.extend(_stage_texts(case, finding))
    return group


def _measurements(finding: StageFinding) -> list[sr.Measurement] | None:
    """Return probability and threshold in percent, unrounded."""
    if finding.probability is None or finding.threshold is None:
        return None
    return [
        sr.Measurement(name=name, value=float(value) * 100.0, unit=codes.PERCENT)
        for name, value in (
            (codes.PROBABILITY[finding.stage], finding.probability),
            (codes.THRESHOLD, finding.threshold),
        )
    ]


def _algorithm(
    case: CaseFinding, finding: StageFinding, device: Device
) -> sr.AlgorithmIdentification | None:
    """Name model, version and everything that decided the number (TID 4019)."""
    if finding.probability is None or finding.model is None:
        return None
    name, _, version = finding.model.partition("@")
    selection = case.selection
    parameters = {
        "threshold": finding.threshold,
        "threshold-source": finding.threshold_source,
        "weights-sha256": finding.weights_sha256,
        "preprocessing-sha256": finding.preprocessing_sha256,
        "device": finding.device,
        "input-sop-instance-uid": selection.sop_instance_uid,
        "input-frame": selection.frame,
        "marked-sop-instance-uid": selection.roi.sop_instance_uid,
        "marked-by-sop-instance-uid": selection.roi.carrier_sop_instance_uid,
        "code-version": device.software_version,
        "code-sha256": device.code_sha256,
    }
    return sr.AlgorithmIdentification(
        name=name,
        version=version or "unknown",
        parameters=[f"{key}={value}" for key, value in parameters.items() if value],
        family=codes.ARTIFICIAL_INTELLIGENCE,
        manufacturer=device.manufacturer,
    )


def _stage_texts(case: CaseFinding, finding: StageFinding) -> list[Dataset]:
    items: list[Dataset] = []
    if finding.threshold_source:
        items.append(_text(codes.THRESHOLD_SOURCE, finding.threshold_source))
    if finding.sensitivity is not None and finding.specificity is not None:
        items.append(
            _text(
                codes.PERFORMANCE,
                f"At this threshold: sensitivity {_rate(finding.sensitivity)}, "
                f"specificity {_rate(finding.specificity)}; "
                f"data set: {finding.dataset or 'not named'}.",
            )
        )
    if finding.stage is Stage.NSLN and case.discordant:
        items.append(_text(codes.DISCORDANCE, DISCORDANT))
    return items


def _rate(rate: Proportion) -> str:
    return (
        f"{rate.value:.1%} ({rate.k}/{rate.n}, "
        f"95% CI {rate.low * 100:.1f} to {rate.high * 100:.1f}%)"
    )


def _biopsy(slnd: SlndResult) -> list[sr.QualitativeEvaluation]:
    """Return the result of pathology and where it came from; none when withdrawn."""
    if slnd.result is Slnd.WITHDRAWN:
        return []
    result = codes.BIOPSY_RESULTS[slnd.result]
    evaluation = sr.QualitativeEvaluation(codes.SENTINEL_BIOPSY, result)
    said = [slnd.source, f"recorded {slnd.recorded_at:%Y-%m-%d}"]
    if slnd.performed_on is not None:
        said.append(f"performed {slnd.performed_on:%Y-%m-%d}")
    if slnd.deposit is not None:
        said.append(f"deposit {slnd.deposit}")
    source = _text(codes.SLND_SOURCE, "; ".join(said), Relationship.HAS_PROPERTIES)
    evaluation[0].ContentSequence = sr.ContentSequence([source])
    return [evaluation]


def _region(case: CaseFinding, evidence: Dataset) -> sr.ImageRegion:
    x0, y0, x1, y1 = case.selection.roi.box
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])
    many = is_multi_frame(evidence)
    return sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=corners,
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=evidence.SOPClassUID,
            referenced_sop_instance_uid=evidence.SOPInstanceUID,
            referenced_frame_numbers=[case.selection.frame] if many else None,
        ),
    )


def _intended_use() -> sr.QualitativeEvaluation:
    return sr.QualitativeEvaluation(codes.USE, codes.RESEARCH_USE_ONLY)


def _text(
    name: Code, said: str, relationship: Relationship = Relationship.CONTAINS
) -> sr.TextContentItem:
    return sr.TextContentItem(name=name, value=said, relationship_type=relationship)
