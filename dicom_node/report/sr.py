"""The structured report: TID 1500 in a Comprehensive 3D SR (PS3.16, PS3.3 A.35.13).

    Imaging Measurement Report
      Summary                a few sentences for a person
      Image Library          the analysed slice
      Measurement Group      Lesion 1: the rectangle, its side, who drew it, why it
      Measurement Group      Stage I: probability, threshold, risk, algorithm
      Measurement Group      Stage II: the same, or only why it did not run

A risk group never carries a finding "metastasis" or the axilla as its site: a machine
would read an estimate as an observation.
"""

from typing import Final

from highdicom import sr
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.findings import (
    CaseFinding,
    Document,
    Laterality,
    StageStatus,
)
from dicom_node.report import codes
from dicom_node.report.device import Device
from dicom_node.report.encode import (
    encode,
    equipment,
    finish,
    nameless,
    written_at,
)
from dicom_node.report.evidence import as_evidence, has_geometry
from dicom_node.report.groups import lesion_group, stage_group
from dicom_node.report.reference import is_multi_frame, restore
from dicom_node.report.summary import summary
from dicom_node.report.uids import case_uid, instance_uid
from dicom_node.silence import silence

KIND: Final = "SR"
SERIES_NUMBERS: Final = {Laterality.LEFT: 99101, Laterality.RIGHT: 99102}
PRELIMINARY: Final = frozenset({StageStatus.PENDING, StageStatus.CONDITIONAL})


def build_sr(
    case: CaseFinding,
    source: Dataset,
    carrier: Dataset | None,
    previous: Dataset | None,
    device: Device,
) -> Document:
    """Write the structured report of one version of a case.

    The same case gives the same UIDs and, in one time zone, the same bytes. Nothing
    is logged and no warning is raised: both would quote the patient's values.

    Args:
        case: What was found.
        source: The header of the analysed image.
        carrier: The object that carried the rectangle, cited as evidence.
        previous: The report that this one supersedes, if any.
        device: This installation.

    Returns:
        A Part 10 file in Explicit VR Little Endian. While stage II may still run
        it is PARTIAL and PRELIMINARY, else COMPLETE and FINAL; always UNVERIFIED.
    """
    with silence():
        evidence = as_evidence(source, case.selection.frame)
        at = written_at(case, evidence)
        final = case.nsln.status not in PRELIMINARY
        side = case.selection.laterality
        content = _content(case, evidence, device)[0]
        report = sr.Comprehensive3DSR(
            evidence=_evidence(evidence, carrier),
            content=_heading(content),
            series_instance_uid=case_uid(case, evidence, device.uid, KIND),
            series_number=SERIES_NUMBERS[side],
            sop_instance_uid=instance_uid(case, evidence, device.uid, KIND),
            instance_number=case.version,
            manufacturer=device.manufacturer,
            is_complete=final,
            is_final=final,
            is_verified=False,
            previous_versions=[previous] if previous is not None else None,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            **equipment(device),
            content_date=at.date(),
            content_time=at.time().replace(microsecond=0),
            series_description=f"RESEARCH axillary node risk ({side.name.lower()})",
        )
        report.ContentSequence = content.ContentSequence
        _separate(report)
        if is_multi_frame(evidence):
            restore(report, evidence, case.selection.frame)
        finish(report, evidence, at, device)
        return encode(report, KIND)


def _heading(content: Dataset) -> Dataset:
    """Return the root of the content without the items below it.

    highdicom copies the whole tree, parses the copy and looks through it for images
    that are no evidence: a third of what a report costs, for a copy that nobody reads
    and a rule that the gate checks on the encoded bytes.
    """
    heading = Dataset()
    for element in content:
        if element.keyword != "ContentSequence":  # elements are shared
            heading.add(element)
    heading.ContentSequence = []
    return heading


def _separate(container: Dataset) -> None:
    """Let renderers give each item a line with its name, not one sentence to all."""
    container.ContinuityOfContent = "SEPARATE"
    for item in container.get("ContentSequence") or ():
        if item.ValueType == "CONTAINER":
            _separate(item)


def _evidence(evidence: Dataset, carrier: Dataset | None) -> list[Dataset]:
    cited = [nameless(evidence)]
    needed = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
    if carrier is not None and all(carrier.get(name) for name in needed):
        cited.append(carrier)
    return cited


def _content(
    case: CaseFinding, evidence: Dataset, device: Device
) -> sr.MeasurementReport:
    groups = [
        lesion_group(case, evidence),
        stage_group(case, case.sln, evidence, device),
        stage_group(case, case.nsln, evidence, device),
    ]
    observer = sr.ObserverContext(
        sr.CodedConcept.from_code(codes.DEVICE),
        sr.DeviceObserverIdentifyingAttributes(
            uid=device.uid,
            name=device.name,
            manufacturer_name=device.manufacturer,
            model_name=device.model_name,
            serial_number=device.serial,
            physical_location=device.station,
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.PROCEDURE,
        imaging_measurements=groups,
        title=codes.REPORT_TITLE,
        referenced_images=[evidence] if has_geometry(evidence) else None,
    )
    _say_first(report, summary(case))
    return report


def _say_first(report: sr.MeasurementReport, said: str) -> None:
    """Put a text before everything else that the report contains."""
    items = report[0].ContentSequence
    contained = [item.RelationshipType == "CONTAINS" for item in items]
    items.insert(
        contained.index(True),
        sr.TextContentItem(
            name=codes.SUMMARY,
            value=said,
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        ),
    )
