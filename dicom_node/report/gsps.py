"""The analysed rectangle as a presentation state, for viewers that draw no reports.

Our own readers leave it out, as they leave out every object of ours: it says what was
analysed, not what a reader marked.
"""

from typing import Final, TypedDict

import numpy as np
from highdicom import ModalityLUTTransformation, PresentationLUTTransformation, pr
from numpy.typing import NDArray
from pydicom import Dataset

from dicom_node.attributes import real, text
from dicom_node.findings import CaseFinding, Document, Laterality
from dicom_node.report import codes
from dicom_node.report.device import Device
from dicom_node.report.encode import encode, equipment, finish, nameless, written_at
from dicom_node.report.evidence import as_evidence, pixel_spacing
from dicom_node.report.groups import tracking_uid
from dicom_node.report.picture import DISPLAY_PERCENTILES
from dicom_node.report.reference import as_single_frame, restore
from dicom_node.report.uids import case_uid, instance_uid
from dicom_node.silence import silence

KIND: Final = "GSPS"
SERIES_NUMBERS: Final = {Laterality.LEFT: 99121, Laterality.RIGHT: 99122}
LAYER: Final = "SENTINODE"
LABEL: Final = "SENTINODE ROI"
DESCRIPTION: Final = "RESEARCH USE ONLY: analysed rectangle"
CAPTION: Final = "RESEARCH USE ONLY - analysed by Sentinode, side {}"


def build_gsps(
    case: CaseFinding, source: Dataset, pixels: NDArray[np.float32], device: Device
) -> Document:
    """Write the rectangle on the analysed image as a grayscale presentation state.

    The same case gives the same UIDs and, in one time zone, the same bytes. Nothing
    is logged and no warning is raised: both would quote the patient's values.

    Args:
        case: What was found.
        source: The header of the analysed image.
        pixels: (rows, columns) of the analysed frame, after the modality LUT; they
            decide the window.
        device: This installation.

    Returns:
        A Part 10 file in Explicit VR Little Endian.
    """
    with silence():
        evidence = as_evidence(source, case.selection.frame)
        state = _state(case, evidence, pixels, device)
        state.DisplayedAreaSelectionSequence[0].update(_pixel_shape(evidence))
        if "PresentationPixelSpacing" in state.DisplayedAreaSelectionSequence[0]:
            del state.DisplayedAreaSelectionSequence[0].PresentationPixelAspectRatio
        state.Laterality = case.selection.laterality.value
        restore(state, evidence, case.selection.frame)
        finish(state, evidence, written_at(case, evidence), device)
        return encode(state, KIND)


def _state(
    case: CaseFinding, evidence: Dataset, pixels: NDArray[np.float32], device: Device
) -> pr.GrayscaleSoftcopyPresentationState:
    side = case.selection.laterality
    shown = nameless(as_single_frame(evidence))
    shown.Rows, shown.Columns = pixels.shape
    layer = pr.GraphicLayer(LAYER, order=1, description=DESCRIPTION)
    return pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[shown],
        series_instance_uid=case_uid(case, evidence, device.uid, KIND),
        series_number=SERIES_NUMBERS[side],
        sop_instance_uid=instance_uid(case, evidence, device.uid, KIND),
        instance_number=case.version,
        manufacturer=device.manufacturer,
        **equipment(device),
        series_description=f"RESEARCH analysed rectangle ({side.name.lower()})",
        content_label=LABEL,
        content_description=DESCRIPTION,
        content_creator_name=f"{device.name}^",  # a whole name: family^given
        concept_name=codes.LESION,
        graphic_layers=[layer],
        graphic_annotations=[_annotation(case, evidence, shown, layer)],
        **_look(evidence, pixels),
    )


def _annotation(
    case: CaseFinding, evidence: Dataset, shown: Dataset, layer: pr.GraphicLayer
) -> pr.GraphicAnnotation:
    """Draw the part of the rectangle that lies on the image, and say what it is."""
    x0, y0, x1, y1 = case.selection.roi.box
    limit = [shown.Columns, shown.Rows]
    corners = np.clip([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], 0, limit)
    outline = pr.GraphicObject(
        "POLYLINE",
        corners,
        units="PIXEL",
        tracking_id=codes.LESION_TITLE,
        tracking_uid=tracking_uid(case, evidence),
    )
    return pr.GraphicAnnotation(
        referenced_images=[shown],
        graphic_layer=layer,
        graphic_objects=[outline],
        text_objects=[
            pr.TextObject(
                CAPTION.format(case.selection.laterality),
                units="PIXEL",
                anchor_point=(float(corners[3][0]), float(corners[3][1])),
                anchor_point_visible=False,
            )
        ],
    )


class _Look(TypedDict):
    """The grey scale of a presentation state, as highdicom names it."""

    modality_lut_transformation: ModalityLUTTransformation
    voi_lut_transformations: list[pr.SoftcopyVOILUTTransformation]
    presentation_lut_transformation: PresentationLUTTransformation


def _look(evidence: Dataset, pixels: NDArray[np.float32]) -> _Look:
    """Return the grey scale: the source's modality LUT, and a window of our own.

    Real windows may be empty or meant for another phase; ours is that of the
    secondary capture, so that both look alike.
    """
    inverted = text(evidence, "PhotometricInterpretation") == "MONOCHROME1"
    stored = pixels.max() + pixels.min() - pixels if inverted else pixels
    low, high = (float(one) for one in np.percentile(stored, DISPLAY_PERCENTILES))
    window = pr.SoftcopyVOILUTTransformation(
        window_center=(low + high) / 2, window_width=max(high - low, 1.0)
    )
    return _Look(
        modality_lut_transformation=_modality_lut(evidence),
        voi_lut_transformations=[window],
        presentation_lut_transformation=PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if inverted else "IDENTITY"
        ),
    )


def _modality_lut(evidence: Dataset) -> ModalityLUTTransformation:
    """Return the source's rescale when it has a whole one, else the identity."""
    slope, intercept = (
        real(evidence, keyword) for keyword in ("RescaleSlope", "RescaleIntercept")
    )
    whole = slope is not None and intercept is not None
    return ModalityLUTTransformation(
        rescale_intercept=intercept if whole else 0.0,
        rescale_slope=slope if whole else 1.0,
        rescale_type="US",  # unspecified: signal of MR has no unit
    )


def _pixel_shape(evidence: Dataset) -> Dataset:
    """Return the spacing that keeps the image's proportions, if the source has one."""
    shape = Dataset()
    if spacing := pixel_spacing(evidence):
        shape.PresentationPixelSpacing = list(spacing)
    return shape
