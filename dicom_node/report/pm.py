"""The class activation map as numbers: a Parametric Map (PS3.3 A.75).

Outside the field that the network saw there is no value, and 0 would be one: these
pixels are NaN, and Float Pixel Padding Value says so (PS3.3 C.7.6.24).
"""

import math
from typing import Final

import numpy as np
from highdicom import PixelMeasuresSequence, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import Dataset

from dicom_node.findings import (
    CaseFinding,
    Document,
    Laterality,
    Stage,
    StageFinding,
)
from dicom_node.report import codes
from dicom_node.report.device import Device
from dicom_node.report.encode import encode, equipment, finish, nameless, written_at
from dicom_node.report.evidence import as_evidence, has_geometry, has_plane
from dicom_node.report.reference import (
    as_single_frame,
    derivation,
    map_number,
    restore,
)
from dicom_node.report.uids import case_uid, derived_uid, instance_uid
from dicom_node.silence import silence

KIND: Final = "PM"
SERIES_NUMBERS: Final = {Laterality.LEFT: 99131, Laterality.RIGHT: 99132}
EXPLANATION: Final = "logit difference, positive speaks for metastasis"


def can_be_mapped(source: Dataset, frame: int) -> bool:
    """Say whether an image's header places it in the patient, as a map must be."""
    with silence():
        evidence = as_evidence(source, frame)
        return has_geometry(evidence) and has_plane(evidence)


def build_pm(
    case: CaseFinding, stage: Stage, source: Dataset, device: Device
) -> Document:
    """Write the class activation map of one stage as a parametric map.

    The same case gives the same UIDs and, in one time zone, the same bytes. Nothing
    is logged and no warning is raised: both would quote the patient's values.

    Args:
        case: What was found; the stage must have run in this version.
        stage: The stage to show.
        source: The header of the analysed image; `can_be_mapped`.
        device: This installation.

    Returns:
        A Part 10 file in Explicit VR Little Endian, on the grid of the source.

    Raises:
        ValueError: The stage has no map.
    """
    finding = case.sln if stage is Stage.SLN else case.nsln
    if finding.heat is None or finding.heat_range is None:
        raise ValueError(f"stage {stage} has no class activation map")
    with silence():
        evidence = as_evidence(source, case.selection.frame)
        made = _map(case, finding, evidence, device)
        made.Laterality = case.selection.laterality.value
        made.FloatPixelPaddingValue = made.FloatPixelPaddingRangeLimit = math.nan
        _name_dimensions(made, derived_uid("dimensions", made.SOPInstanceUID))
        _describe(made, derivation(finding, device))
        restore(made, evidence, case.selection.frame)
        finish(made, evidence, written_at(case, evidence), device)
        return encode(made, KIND)


def _map(
    case: CaseFinding, finding: StageFinding, evidence: Dataset, device: Device
) -> ParametricMap:
    heat = np.asarray(finding.heat, dtype=np.float32)
    low, high = finding.heat_range or (0.0, 0.0)
    stage, side = finding.stage, case.selection.laterality
    at = written_at(case, evidence)
    return ParametricMap(
        source_images=[nameless(as_single_frame(evidence))],
        pixel_array=heat[None],  # (1, rows, columns)
        series_instance_uid=case_uid(case, evidence, device.uid, KIND),
        series_number=SERIES_NUMBERS[side],
        sop_instance_uid=instance_uid(case, evidence, device.uid, KIND, stage),
        instance_number=map_number(case, stage),
        manufacturer=device.manufacturer,
        **equipment(device),
        contains_recognizable_visual_features=False,
        pixel_measures=PixelMeasuresSequence(
            evidence.PixelSpacing, evidence.SliceThickness
        ),
        real_world_value_mappings=[_mapping(finding, heat)],
        voi_lut_transformations=[
            VOILUTTransformation(
                window_center=(low + high) / 2, window_width=max(high - low, 1.0)
            )
        ],
        content_label=f"CAM {stage}",
        content_description=f"RESEARCH USE ONLY: CAM of {stage}",
        content_creator_name=f"{device.name}^",  # a whole name: family^given
        content_date=at.date(),
        content_time=at.time().replace(microsecond=0),
        series_description=f"RESEARCH class activation values ({side.name.lower()})",
    )


def _name_dimensions(made: Dataset, uid: str) -> None:
    """Give the dimensions a UID that follows from the map; highdicom draws one."""
    for items in (made.DimensionOrganizationSequence, made.DimensionIndexSequence):
        for item in items:
            item.DimensionOrganizationUID = uid


def _describe(made: Dataset, said: str) -> None:
    for frame in made.PerFrameFunctionalGroupsSequence:
        for item in frame.DerivationImageSequence:
            item.DerivationDescription = said


def _mapping(
    finding: StageFinding, heat: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> RealWorldValueMapping:
    """Say what the numbers are; they are stored as they are."""
    return RealWorldValueMapping(
        lut_label=f"{finding.stage} CAM",
        lut_explanation=EXPLANATION,
        unit=codes.NO_UNITS,
        value_range=(float(np.nanmin(heat)), float(np.nanmax(heat))),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.CLASS_ACTIVATION,
    )
