"""How our objects name the image that they were made of, single- or multi-frame."""

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset
from pydicom.uid import MRImageStorage

from dicom_node.attributes import number
from dicom_node.findings import CaseFinding, Stage, StageFinding
from dicom_node.report import codes
from dicom_node.report.device import Device
from dicom_node.report.makers import coded

REPLACED: Final = (
    "NumberOfFrames",
    "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
    "SOPClassUID",
)
"""What an image of one frame has otherwise."""

NUMBER_IN_VERSION: Final = {Stage.SLN: 1, Stage.NSLN: 2}
LISTS: Final = frozenset(
    {
        "CurrentRequestedProcedureEvidenceSequence",
        "PertinentOtherEvidenceSequence",
        "ReferencedSeriesSequence",
    }
)
"""What names the instances that an object is about, not their frames."""


def is_multi_frame(evidence: Dataset) -> bool:
    """Say whether a reference to the image must name the frame."""
    return (number(evidence, "NumberOfFrames") or 1) > 1


def source_item(case: CaseFinding, evidence: Dataset) -> Dataset:
    """Return the item of a Source Image Sequence for the analysed frame."""
    item = Dataset()
    item.ReferencedSOPClassUID = evidence.SOPClassUID
    item.ReferencedSOPInstanceUID = evidence.SOPInstanceUID
    if is_multi_frame(evidence):
        item.ReferencedFrameNumber = case.selection.frame
    item.SpatialLocationsPreserved = "YES"
    item.PurposeOfReferenceCodeSequence = [coded(codes.SOURCE_IMAGE)]
    return item


def derivation(finding: StageFinding, device: Device) -> str:
    """Say how a map was made, by which weights and which program."""
    low, high = finding.heat_range or (0.0, 0.0)
    said = [
        f"Class activation map of {finding.stage}, model {finding.model}",
        f"scale {low:+.1f} to {high:+.1f} logit difference",
        f"weights sha256 {finding.weights_sha256}",
        f"preprocessing sha256 {finding.preprocessing_sha256}",
        f"computed on {finding.device}",
        f"{device.name} {', '.join(device.software_versions)}",
        "research use only",
    ]
    return "; ".join(said)


def as_single_frame(evidence: Dataset) -> Dataset:
    """Return evidence, flattened to one frame, as an image of one frame.

    highdicom goes by the SOP class and would look for functional groups. What it
    makes of this must get its references back by `restore`.
    """
    plain = Dataset()
    for element in evidence:
        if element.keyword not in REPLACED:  # elements are shared: never change one
            plain.add(element)
    plain.SOPClassUID = MRImageStorage
    return plain


def restore(made: Dataset, evidence: Dataset, frame: int) -> None:
    """Let every reference to the image below `made` name its class, and its frame.

    What only lists the image, for all its frames, is left without a frame.
    """
    for element in made:
        if element.VR == "SQ":
            listed = element.keyword in LISTS
            for item in element.value:
                _restore_item(item, evidence, None if listed else frame)


def _restore_item(item: Dataset, evidence: Dataset, frame: int | None) -> None:
    for one in every_item(item):
        if one.get("ReferencedSOPInstanceUID") == evidence.SOPInstanceUID:
            one.ReferencedSOPClassUID = evidence.SOPClassUID
            if frame is not None and is_multi_frame(evidence):
                one.ReferencedFrameNumber = frame


def every_item(dataset: Dataset) -> Iterator[Dataset]:
    """Walk a data set and every item below it."""
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from every_item(item)


def map_number(case: CaseFinding, stage: Stage) -> int:
    """Return the Instance Number of a map: two for each version of a case."""
    return 2 * (case.version - 1) + NUMBER_IN_VERSION[stage]
