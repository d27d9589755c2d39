"""Parts of the body around a breast lesion that are outlined for other reasons.

A whole breast is larger than any lesion in it, so its outline must not count as one.
Only what a breast MRI shows is listed: an outline of anything else has no place in it.
"""

import re
from typing import Final

from pydicom import Dataset

from dicom_node.attributes import text

CODES: Final = frozenset(
    {
        *("76752008", "80248007", "73056007"),  # breast; left, right
        *("181131000", "T-04000", "T-04020", "T-04030"),
        *("39937001", "T-01000", "24142002", "T-04100"),  # skin; nipple
        *("78904004", "T-D3050", "91470000", "T-D8104"),  # chest wall; axilla
        *("80891009", "T-32000", "39607008", "T-28000"),  # heart; lung
    }
)
"""Property types of SNOMED CT and, as older objects have them, of SNOMED RT."""

PARTS: Final = frozenset(
    {
        *("axilla", "breast", "breasts", "body", "fgt", "fibroglandular", "heart"),
        *("lung", "lungs", "mamma", "nipple", "parenchyma", "pectoralis", "skin"),
    }
)
BESIDE: Final = frozenset(
    {
        *("air", "both", "contour", "l", "left", "li", "links", "lt", "major", "mask"),
        *("minor", "muscle", "r", "re", "rechts", "right", "rt", "tissue", "total"),
        *("whole", "bilateral"),
    }
)


def is_anatomy(name: str) -> bool:
    """Say whether a name is that of a body part and of nothing else."""
    words = set(re.findall(r"[^\W\d_]+", name.lower()))
    return bool(words & PARTS) and words <= PARTS | BESIDE


def names_anatomy(segment: Dataset) -> bool:
    """Say whether a segment is a body part, by its property type or its label."""
    types = segment.get("SegmentedPropertyTypeCodeSequence") or ()
    coded = any(text(item, "CodeValue") in CODES for item in types)
    return coded or is_anatomy(text(segment, "SegmentLabel"))
