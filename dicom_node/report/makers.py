"""Who contributed to an object of ours: Contributing Equipment (PS3.3 C.12.1.1.12).

The scanner made the images, Sentinode computed, highdicom wrote the data set. A
reader of the object can so tell its origin without the source images.
"""

from datetime import datetime
from importlib.metadata import version
from typing import Final

from pydicom import Dataset
from pydicom.sr.coding import Code

from dicom_node.attributes import moment, text, words
from dicom_node.report import codes
from dicom_node.report.device import Device

NOT_STATED: Final = "not stated by the source"
COPIED: Final = (
    "InstitutionName",
    "StationName",
    "InstitutionalDepartmentName",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "DeviceUID",
)
ACQUIRED: Final = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
)


def makers(evidence: Dataset, at: datetime, device: Device) -> list[Dataset]:
    """Return one item for each, in the order in which they worked."""
    return [_scanner(evidence), _sentinode(at, device), _library(at)]


def coded(code: Code) -> Dataset:
    """Return a code as the item of a code sequence."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _scanner(evidence: Dataset) -> Dataset:
    """Describe the scanner by what its images say; a manufacturer is mandatory."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded(codes.ACQUISITION)]
    item.Manufacturer = text(evidence, "Manufacturer") or NOT_STATED
    for keyword in COPIED:
        if said := text(evidence, keyword):
            setattr(item, keyword, said)
    if versions := words(evidence, "SoftwareVersions"):
        item.SoftwareVersions = list(versions)
    known = (moment(evidence, *pair) for pair in ACQUIRED)
    if acquired := next((when for when in known if when is not None), None):
        item.ContributionDateTime = f"{acquired:%Y%m%d%H%M%S}"
    item.ContributionDescription = "acquired the analysed image"
    return item


def _sentinode(at: datetime, device: Device) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded(codes.PROCESSING)]
    item.Manufacturer = device.manufacturer
    item.ManufacturerModelName = device.model_name
    item.DeviceSerialNumber = device.serial
    item.DeviceUID = device.uid
    item.SoftwareVersions = device.software_versions
    item.ContributionDateTime = f"{at:%Y%m%d%H%M%S}"
    item.ContributionDescription = "computed the result, for research use only"
    return item


def _library(at: datetime) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded(codes.PROCESSING)]
    item.Manufacturer = "Highdicom open-source contributors"
    item.ManufacturerModelName = "highdicom"
    item.SoftwareVersions = version("highdicom")
    item.ContributionDateTime = f"{at:%Y%m%d%H%M%S}"
    item.ContributionDescription = "software library that wrote the data set"
    return item
