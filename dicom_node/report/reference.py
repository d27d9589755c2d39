"""How our objects name the image that they were made of, single- or multi-frame."""

from collections.abc import Iterator
from typing import Final

from pydicom import Dataset
from pydicom.uid import MRImageStorage

from dicom_node.attributes import number
from dicom_node.findings import CaseFinding, StageFinding
from dicom_node.report import codes
from dicom_node.report.device import Device
from dicom_node.report.makers import coded

MULTI_FRAME: Final = (
    "NumberOfFrames",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


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
        if element.keyword not in MULTI_FRAME:  # elements are shared: never change one
            plain.add(element)
    plain.SOPClassUID = MRImageStorage
    return plain


def restore(made: Dataset, evidence: Dataset, frame: int) -> None:
    """Let every reference to the image name its own class, and its frame."""
    for item in _items(made):
        if item.get("ReferencedSOPInstanceUID") == evidence.SOPInstanceUID:
            item.ReferencedSOPClassUID = evidence.SOPClassUID
            if is_multi_frame(evidence):
                item.ReferencedFrameNumber = frame


def _items(dataset: Dataset) -> Iterator[Dataset]:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from _items(item)
