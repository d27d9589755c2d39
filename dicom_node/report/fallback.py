"""The same report as another SR class, for an archive that refuses the first.

A content tree of TID 1500 with planar coordinates is valid in Comprehensive 3D,
Comprehensive and Enhanced SR (PS3.3 A.35.13, A.35.3, A.35.2). The bytes differ, so
the object is another one: its UID follows from the original's UID and the class, and
so do the UIDs of its predecessors, whatever order the versions are sent in.
"""

import hashlib
from io import BytesIO
from typing import Final

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID

from dicom_node.errors import UnreadableObjectError
from dicom_node.findings import Document
from dicom_node.report.uids import derived_uid
from dicom_node.silence import silence
from dicom_node.study import SopInstanceUid

COMPREHENSIVE_3D: Final = "1.2.840.10008.5.1.4.1.1.88.34"
COMPREHENSIVE: Final = "1.2.840.10008.5.1.4.1.1.88.33"
ENHANCED: Final = "1.2.840.10008.5.1.4.1.1.88.22"

CHAIN: Final = (COMPREHENSIVE_3D, COMPREHENSIVE, ENHANCED)
"""The classes in the order in which they are preferred."""

DEFECTS: Final = (
    AttributeError,
    InvalidDicomError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
)
"""What pydicom raises on bytes that are not what they claim to be."""


def stand_ins(sop_class_uid: str) -> tuple[str, ...]:
    """Return the classes that may stand in for one, the best first."""
    if sop_class_uid not in CHAIN:
        return ()
    return CHAIN[CHAIN.index(sop_class_uid) + 1 :]


def variant_uid(sop_instance_uid: str, sop_class_uid: str) -> SopInstanceUid:
    """Return the UID of an original's variant of another class."""
    return SopInstanceUid(derived_uid("variant", sop_instance_uid, sop_class_uid))


def as_class(original: bytes, kind: str, sop_class_uid: str) -> Document:
    """Write a report of ours as another class; the same input gives the same bytes.

    Args:
        original: The frozen Part 10 file.
        kind: Kind of the document, kept.
        sop_class_uid: One of the `stand_ins` of the original's class.

    Raises:
        UnreadableObjectError: The original is not a report of a class of the chain.
    """
    with silence():
        try:
            report = dcmread(BytesIO(original))
            return _rewritten(report, kind, sop_class_uid)
        except DEFECTS:
            text = "the report cannot be written as another SR class"
            raise UnreadableObjectError(text) from None  # the cause may quote values


def _rewritten(report: Dataset, kind: str, sop_class_uid: str) -> Document:
    before = str(report.SOPClassUID)
    if sop_class_uid not in stand_ins(before):
        raise ValueError(f"{sop_class_uid} does not stand in for {before}")
    _become(report, sop_class_uid)
    for item in report.get("PredecessorDocumentsSequence") or ():
        for series in item.get("ReferencedSeriesSequence") or ():
            for reference in series.get("ReferencedSOPSequence") or ():
                if reference.ReferencedSOPClassUID == before:
                    uid = variant_uid(reference.ReferencedSOPInstanceUID, sop_class_uid)
                    reference.ReferencedSOPInstanceUID = UID(uid)
                    reference.ReferencedSOPClassUID = UID(sop_class_uid)
    buffer = BytesIO()
    dcmwrite(buffer, report, enforce_file_format=True)
    content = buffer.getvalue()
    return Document(
        kind=kind,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=SopInstanceUid(str(report.SOPInstanceUID)),
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
    )


def _become(report: Dataset, sop_class_uid: str) -> None:
    uid = variant_uid(str(report.SOPInstanceUID), sop_class_uid)
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = UID(sop_class_uid)
