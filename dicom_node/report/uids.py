"""UIDs that follow from content: the same result has the same UIDs on every try."""

import uuid
from typing import Final

from pydicom import Dataset

from dicom_node.findings import CaseFinding

NAMESPACE: Final = uuid.UUID("6b0c1a52-7d0e-5c67-9f4d-0b4f1c7a2e93")
"""Name space of every UID derived here; never change it."""


def derived_uid(*parts: object) -> str:
    """Return the UID that belongs to `parts`, below the UUID root 2.25 (PS3.5 B.2).

    Equal parts give an equal UID, in every process and on every machine.
    """
    name = "\\".join(str(part) for part in parts)
    return f"2.25.{uuid.uuid5(NAMESPACE, name).int}"


def case_uid(case: CaseFinding, evidence: Dataset, *parts: object) -> str:
    """Return a UID that all versions of a case share: one study, one side."""
    study, side = str(evidence.StudyInstanceUID), case.selection.laterality
    return derived_uid("case", study, side, *parts)


def instance_uid(case: CaseFinding, evidence: Dataset, *parts: object) -> str:
    """Return a UID that follows from the input, the models and the version."""
    return derived_uid(
        "instance",
        str(evidence.SOPInstanceUID),
        case.selection.frame,
        case.selection.roi.box,
        case.sln.weights_sha256,
        case.nsln.weights_sha256,
        case.slnd.result if case.slnd else None,
        case.result_id,
        case.version,
        *parts,
    )
