"""From a data set to the frozen bytes of a document."""

import hashlib
from datetime import datetime
from io import BytesIO
from typing import Any, Final, TypedDict

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import Dataset, dcmwrite
from pydicom.uid import UID

from dicom_node.attributes import text, zone
from dicom_node.findings import CaseFinding, Document
from dicom_node.own import SCHEME
from dicom_node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.report.codes import (
    SCHEME_NAME,
    SCHEME_RESPONSIBLE,
    SCHEME_VERSION,
)
from dicom_node.report.device import Device
from dicom_node.report.makers import makers
from dicom_node.study import SopInstanceUid

NAMES: Final = ("PatientName", "ReferringPhysicianName")
TIMES: Final = (
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
    ("PresentationCreationDate", "PresentationCreationTime"),
)
"""What highdicom takes from the clock; the same case must give the same bytes."""


def written_at(case: CaseFinding, evidence: Dataset) -> datetime:
    """Return when the result was made, in the zone that the source is written in.

    Without TimezoneOffsetFromUTC, DICOM times are local, so this host's zone is used.
    """
    return case.created_at.astimezone(zone(evidence))


class Equipment(TypedDict):
    """What every object of ours says of its origin, as highdicom names it."""

    manufacturer_model_name: str
    software_versions: Any
    device_serial_number: str
    content_qualification: str
    coding_schemes: list[CodingSchemeIdentificationItem]


def equipment(device: Device) -> Equipment:
    """Return the origin of an object, marked as research by its attributes too."""
    return Equipment(
        manufacturer_model_name=device.model_name,
        # a list: highdicom's hint says tuple, pydicom then cannot write it
        software_versions=device.software_versions,
        device_serial_number=device.serial,
        content_qualification="RESEARCH",
        coding_schemes=[private_scheme()],
    )


def private_scheme() -> CodingSchemeIdentificationItem:
    """Declare our codes; by this every object of ours is recognised."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name=SCHEME_NAME,
        version=SCHEME_VERSION,
        responsible_organization=SCHEME_RESPONSIBLE,
    )


def nameless(evidence: Dataset) -> Dataset:
    """Return the evidence without names, for libraries that print what they doubt."""
    bare = Dataset()
    for element in evidence:
        if element.keyword not in NAMES:  # elements are shared: never change one
            bare.add(element)
    for keyword in NAMES:
        setattr(bare, keyword, "")
    return bare


def finish(dataset: Dataset, evidence: Dataset, at: datetime, device: Device) -> None:
    """Put the names back, our own time in place of the clock's, and name the makers."""
    for keyword in NAMES:
        setattr(dataset, keyword, evidence.get(keyword, ""))
    for date, clock in TIMES:
        if date in dataset:
            setattr(dataset, date, f"{at:%Y%m%d}")
            setattr(dataset, clock, f"{at:%H%M%S}")
    if zone(evidence) is not None:
        dataset.TimezoneOffsetFromUTC = text(evidence, "TimezoneOffsetFromUTC")
    dataset.ContributingEquipmentSequence = makers(evidence, at, device)


def encode(dataset: Dataset, kind: str) -> Document:
    """Freeze a data set as the bytes of a Part 10 file."""
    dataset.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    content = buffer.getvalue()
    return Document(
        kind=kind,
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=SopInstanceUid(str(dataset.SOPInstanceUID)),
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
    )
