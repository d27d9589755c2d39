"""Whether a study shows the breast at all."""

from typing import Final

from dicom_node.errors import StudyHeldError, StudyIgnoredError
from dicom_node.images import StudyObjects
from dicom_node.study import Reason

BREAST_WORDS: Final = (
    "BREAST", "MAMM", "MAMA", "BRUST", "SEIN", "BORST", "SENO", "PIERS", "MAM\u00c1",
)  # fmt: skip
OTHER_REGIONS: Final = (
    "ABDOMEN", "ANKLE", "BRAIN", "CARDIAC", "ELBOW", "EXTREMITY", "FOOT", "HAND",
    "HEAD", "HEART", "HIP", "KIDNEY", "KNEE", "LIVER", "NECK", "ORBIT", "PANCREAS",
    "PELVIS", "PROSTATE", "SELLA", "SHOULDER", "SKULL", "SPINE", "UTERUS", "WRIST",
)  # fmt: skip


def demand_breast_mr(objects: StudyObjects) -> None:
    """Refuse a study without an MR image, or of another region.

    Raises:
        StudyIgnoredError: Not breast MR.
        StudyHeldError: `unreadable`: there are objects, and none can be read.
    """
    if not objects.images and objects.unreadable:
        raise StudyHeldError(
            Reason.UNREADABLE,
            f"No image could be read: {'; '.join(objects.unreadable)}.",
        )
    if not objects.images:
        raise StudyIgnoredError(
            Reason.NOT_BREAST_MR, "The study holds no MR image that could be analysed."
        )
    parts = {image.body_part for image in objects.images} - {""}
    said = {image.study_description.upper() for image in objects.images}
    said |= {image.description.upper() for image in objects.images}
    if any(word in text for text in parts | said for word in BREAST_WORDS):
        return
    named = [word for word in OTHER_REGIONS if any(word in p for p in parts or said)]
    if named:
        raise StudyIgnoredError(
            Reason.NOT_BREAST_MR,
            f"Body part and descriptions name {named[0].lower()}, and no breast.",
        )
