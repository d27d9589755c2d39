"""What the modules of our IODs demand: attributes with their types (PS3.3 annex A).

The conformance statement lists everything that we write; here is what must be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Type(StrEnum):
    """Type of an attribute as we promise it (PS3.5 7.4): with a value, or empty."""

    VALUED = "1"
    EMPTY = "2"


@dataclass(frozen=True, slots=True)
class Module:
    """What one kind of document must hold at its top level.

    `terms` are the only values of an attribute; `pixels` names the pixel data and the
    bytes of each pixel.
    """

    sop_classes: frozenset[str]
    attributes: Mapping[str, Type]
    terms: Mapping[str, frozenset[str]] = field(default_factory=dict)
    pixels: tuple[str, int] | None = None


def _types(valued: str, empty: str = "") -> dict[str, Type]:
    return {
        **dict.fromkeys(valued.split(), Type.VALUED),
        **dict.fromkeys(empty.split(), Type.EMPTY),
    }


EVERY_OBJECT: Final = _types(
    """
    SpecificCharacterSet SOPClassUID SOPInstanceUID InstanceCreationDate
    InstanceCreationTime StudyInstanceUID SeriesInstanceUID SeriesNumber Modality
    SeriesDescription InstanceNumber Manufacturer ManufacturerModelName
    DeviceSerialNumber SoftwareVersions ContentQualification
    CodingSchemeIdentificationSequence ContributingEquipmentSequence
    """,
    """
    PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID
    AccessionNumber ReferringPhysicianName
    """,
)
"""Patient, General Study, General Series, General Equipment, SOP Common."""

SR: Final = Module(
    sop_classes=frozenset(
        {
            "1.2.840.10008.5.1.4.1.1.88.34",
            "1.2.840.10008.5.1.4.1.1.88.33",
            "1.2.840.10008.5.1.4.1.1.88.22",
        }
    ),
    attributes=EVERY_OBJECT
    | _types(
        """
        ContentDate ContentTime ValueType ConceptNameCodeSequence ContinuityOfContent
        ContentTemplateSequence ContentSequence CompletionFlag PreliminaryFlag
        VerificationFlag CurrentRequestedProcedureEvidenceSequence
        """,
        "PerformedProcedureCodeSequence ReferencedPerformedProcedureStepSequence",
    ),
    terms={
        "Modality": frozenset({"SR"}),
        "ValueType": frozenset({"CONTAINER"}),
        "CompletionFlag": frozenset({"COMPLETE", "PARTIAL"}),
        "PreliminaryFlag": frozenset({"FINAL", "PRELIMINARY"}),
    },
)
SC: Final = Module(
    sop_classes=frozenset({"1.2.840.10008.5.1.4.1.1.7"}),
    attributes=EVERY_OBJECT
    | _types(
        """
        Laterality ConversionType ImageType ContentDate ContentTime Rows Columns
        SamplesPerPixel PhotometricInterpretation PlanarConfiguration BitsAllocated
        BitsStored HighBit PixelRepresentation PixelData BurnedInAnnotation
        RecognizableVisualFeatures LossyImageCompression DerivationDescription
        SourceImageSequence
        """,
        "PatientOrientation",
    ),
    terms={
        "BurnedInAnnotation": frozenset({"NO"}),
        "PhotometricInterpretation": frozenset({"RGB"}),
        "Laterality": frozenset({"L", "R"}),
        "BitsAllocated": frozenset({"8"}),
        "SamplesPerPixel": frozenset({"3"}),
    },
    pixels=("PixelData", 3),
)
GSPS: Final = Module(
    sop_classes=frozenset({"1.2.840.10008.5.1.4.1.1.11.1"}),
    attributes=EVERY_OBJECT
    | _types(
        """
        Laterality ContentLabel PresentationCreationDate PresentationCreationTime
        ReferencedSeriesSequence GraphicAnnotationSequence GraphicLayerSequence
        DisplayedAreaSelectionSequence SoftcopyVOILUTSequence PresentationLUTShape
        """,
        "ContentDescription ContentCreatorName",
    ),
    terms={
        "Modality": frozenset({"PR"}),
        "Laterality": frozenset({"L", "R"}),
        "PresentationLUTShape": frozenset({"IDENTITY", "INVERSE"}),
    },
)
PM: Final = Module(
    sop_classes=frozenset({"1.2.840.10008.5.1.4.1.1.30"}),
    attributes=EVERY_OBJECT
    | _types(
        """
        Laterality ContentDate ContentTime ContentLabel ImageType PixelPresentation
        FrameOfReferenceUID NumberOfFrames Rows Columns SamplesPerPixel
        PhotometricInterpretation BitsAllocated FloatPixelData FloatPixelPaddingValue
        BurnedInAnnotation RecognizableVisualFeatures LossyImageCompression
        PresentationLUTShape DimensionOrganizationSequence DimensionIndexSequence
        SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence
        ReferencedSeriesSequence
        """,
        """
        ContentDescription ContentCreatorName AcquisitionContextSequence
        PositionReferenceIndicator
        """,
    ),
    terms={
        "BurnedInAnnotation": frozenset({"NO"}),
        "Laterality": frozenset({"L", "R"}),
        "BitsAllocated": frozenset({"32"}),
        "NumberOfFrames": frozenset({"1"}),
    },
    pixels=("FloatPixelData", 4),
)
MODULES: Final[Mapping[str, Module]] = {"SR": SR, "SC": SC, "GSPS": GSPS, "PM": PM}
"""One for each kind of document; no other kind is ever sent."""
