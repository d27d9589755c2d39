"""The class activation map as a secondary capture, which every viewer can show."""

from typing import Final

import numpy as np
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.attributes import numbers
from dicom_node.findings import CaseFinding, Document, Laterality, Stage, StageFinding
from dicom_node.report.device import Device
from dicom_node.report.encode import (
    encode,
    equipment,
    finish,
    nameless,
    written_at,
)
from dicom_node.report.evidence import as_evidence, has_plane, pixel_spacing
from dicom_node.report.picture import Scene, draw
from dicom_node.report.reference import derivation, map_number, source_item
from dicom_node.report.uids import case_uid, instance_uid
from dicom_node.silence import silence

KIND: Final = "SC"
SERIES_NUMBERS: Final = {Laterality.LEFT: 99111, Laterality.RIGHT: 99112}
PLANE: Final = (
    "FrameOfReferenceUID",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "PixelSpacing",
)
"""The picture has the source's matrix, so its plane stays true: all of it, or none."""

CAPTION: Final = "RESEARCH USE ONLY \u2013 CAM ({})"
DIRECTIONS: Final = (("R", "L"), ("A", "P"), ("F", "H"))
"""Letters for negative and positive x, y, z of the patient (LPS)."""

MIN_COSINE: Final = 0.05
PER_MM: Final = 1000
"""An aspect ratio is one of whole numbers: micrometres, here."""


def build_sc(
    case: CaseFinding,
    stage: Stage,
    source: Dataset,
    pixels: NDArray[np.float32],
    device: Device,
) -> Document:
    """Write the class activation map of one stage as an RGB secondary capture.

    The same case gives the same UIDs and, in one time zone, the same bytes. Nothing
    is logged and no warning is raised: both would quote the patient's values.

    Args:
        case: What was found; the stage must have run in this version.
        stage: The stage to show.
        source: The header of the analysed image.
        pixels: (rows, columns) of the analysed frame, after the modality LUT.
        device: This installation.

    Returns:
        A Part 10 file in Explicit VR Little Endian, on the grid of the source.

    Raises:
        ValueError: The stage has no map, or map and pixels lie on other grids.
    """
    finding = case.sln if stage is Stage.SLN else case.nsln
    if finding.heat is None or finding.heat_range is None:
        raise ValueError(f"stage {stage} has no class activation map")
    if finding.heat.shape != pixels.shape:
        raise ValueError(f"map {finding.heat.shape} and slice {pixels.shape} differ")
    picture = draw(
        Scene(
            pixels=pixels,
            heat=finding.heat,
            bounds=finding.heat_range,
            box=case.selection.roi.box,
            caption=CAPTION.format(stage),
        )
    )
    with silence():
        evidence = as_evidence(source, case.selection.frame)
        capture = _capture(case, finding, (evidence, picture), device)
        return encode(capture, KIND)


def _capture(
    case: CaseFinding,
    finding: StageFinding,
    shown: tuple[Dataset, NDArray[np.uint8]],
    device: Device,
) -> SCImage:
    evidence, picture = shown
    at = written_at(case, evidence)
    stage, side = finding.stage, case.selection.laterality
    capture = SCImage.from_ref_dataset(
        nameless(evidence),
        picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=case_uid(case, evidence, device.uid, KIND),
        series_number=SERIES_NUMBERS[side],
        sop_instance_uid=instance_uid(case, evidence, device.uid, KIND, stage),
        instance_number=map_number(case, stage),
        manufacturer=device.manufacturer,
        patient_orientation=("L", "P"),  # mandatory here, replaced below
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **equipment(device),
        content_date=at.date(),
        content_time=at.time().replace(microsecond=0),
        series_description=f"RESEARCH class activation map ({side.name.lower()})",
    )
    capture.copy_patient_and_study_information(evidence)
    _describe(capture, case, evidence)
    capture.DerivationDescription = derivation(finding, device)
    finish(capture, evidence, at, device)
    return capture


def _describe(capture: Dataset, case: CaseFinding, evidence: Dataset) -> None:
    """Say what the picture is, where it lies and what it was made of."""
    capture.ImageType = ["DERIVED", "SECONDARY", "OTHER", "CAM"]
    capture.Laterality = case.selection.laterality.value
    capture.PatientOrientation = list(patient_orientation(evidence))
    capture.BurnedInAnnotation = "NO"  # it is about text that identifies a patient
    capture.RecognizableVisualFeatures = "NO"
    capture.LossyImageCompression = "00"
    capture.SourceImageSequence = [source_item(case, evidence)]
    if has_plane(evidence):
        _place(capture, evidence)
    elif spacing := pixel_spacing(evidence):
        rows, columns = (round(PER_MM * one) for one in spacing)
        if rows != columns:
            capture.PixelAspectRatio = [rows, columns]


def _place(capture: Dataset, evidence: Dataset) -> None:
    """Put the picture where its source lies, so that viewers can link the two."""
    for keyword in PLANE:
        setattr(capture, keyword, evidence.get(keyword))
    for keyword in ("SliceThickness", "PositionReferenceIndicator"):
        known = evidence.get(keyword)
        setattr(capture, keyword, "" if known is None else known)


def patient_orientation(header: Dataset) -> tuple[str, str] | tuple[()]:
    """Return the directions of a row and a column as letters, such as ("L", "P").

    An oblique direction has several letters, the largest share first.
    """
    cosines = numbers(header, "ImageOrientationPatient", 6)
    if cosines is None:
        return ()
    return _letters(cosines[:3]), _letters(cosines[3:])


def _letters(cosines: tuple[float, ...]) -> str:
    shares = sorted(zip(cosines, DIRECTIONS, strict=True), key=lambda one: -abs(one[0]))
    return "".join(
        letters[share > 0] for share, letters in shares if abs(share) > MIN_COSINE
    )
