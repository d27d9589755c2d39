"""Who Sentinode is in DICOM, so that a PACS cannot route our results back to us."""

from typing import Final

from pydicom import Dataset

from dicom_node.attributes import text

MANUFACTURER: Final = "Sentinode"
MODEL_NAME: Final = "Sentinode"
SCHEME: Final = "99SENTINODE"
"""Designator of the private coding scheme; "99" marks it private (PS3.16 8.2)."""


def is_own(dataset: Dataset) -> bool:
    """Say whether an installation of Sentinode, this one or another, wrote an object.

    Either mark is enough: the private coding scheme is declared, or the equipment
    carries our model name.
    """
    schemes = dataset.get("CodingSchemeIdentificationSequence") or ()
    if any(item.get("CodingSchemeDesignator") == SCHEME for item in schemes):
        return True
    return text(dataset, "ManufacturerModelName").startswith(MODEL_NAME)
