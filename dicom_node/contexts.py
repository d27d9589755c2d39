"""Presentation contexts that the listener accepts.

Images and segmentations come in any lossless syntax, never lossy: compression
artefacts change what the network sees. Deflated is left out because a few bytes of it
inflate without bound, Big Endian because it is retired. Documents come uncompressed.
"""

from typing import Final

from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.codestream import COMPRESSED, UNCOMPRESSED

VERIFICATION: Final = "1.2.840.10008.1.1"
COMMITMENT: Final = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
"""Storage Commitment Push Model: the SOP class, and its well-known instance."""

LOSSLESS: Final = (*UNCOMPRESSED, *COMPRESSED)

IMAGES: Final = (
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture
)
SEGMENTATIONS: Final = (
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
)
DOCUMENTS: Final = (
    "1.2.840.10008.5.1.4.1.1.88.11",  # Basic Text SR
    "1.2.840.10008.5.1.4.1.1.88.22",  # Enhanced SR
    "1.2.840.10008.5.1.4.1.1.88.33",  # Comprehensive SR
    "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
    "1.2.840.10008.5.1.4.1.1.88.35",  # Extensible SR
    "1.2.840.10008.5.1.4.1.1.88.59",  # Key Object Selection
    "1.2.840.10008.5.1.4.1.1.11.1",  # Grayscale Softcopy Presentation State
    "1.2.840.10008.5.1.4.1.1.11.2",  # Color Softcopy Presentation State
    "1.2.840.10008.5.1.4.1.1.481.3",  # RT Structure Set
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
)


def accepted() -> list[PresentationContext]:
    """Return the contexts to offer, verification first."""
    return [
        *verification(),
        *(build_context(uid, list(LOSSLESS)) for uid in (*IMAGES, *SEGMENTATIONS)),
        *(build_context(uid, list(UNCOMPRESSED)) for uid in DOCUMENTS),
        commitment(),
    ]


def commitment() -> PresentationContext:
    """Return the context of commitment reports: the caller is the SCP, we the SCU.

    Many archives do not negotiate the role, so the default one is accepted too.
    """
    context = build_context(COMMITMENT, list(UNCOMPRESSED))
    context.scu_role = context.scp_role = True
    return context


def verification() -> list[PresentationContext]:
    """Return the context of C-ECHO alone."""
    return [build_context(VERIFICATION, list(UNCOMPRESSED))]
