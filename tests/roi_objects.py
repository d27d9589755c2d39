"""One rectangle in every carrier, written by highdicom or by hand, never by us.

The mapping to the patient is written out anew after PS3.3 C.7.6.2.1.1, so that it
tests the product's.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from dicom_node.images import MrImage, read_study
from dicom_node.report.evidence import as_evidence
from tests.dicom_objects import (
    AT,
    BOX,
    READER,
    Box,
    derived,
    gsps_rectangle,
    lenient,
    reread,
    sr_rectangle,
    store,
)

ADJUDICATOR = sr.CodedConcept("C96561", "NCIt", "Adjudicator")


def corners(box: Box) -> NDArray[np.float64]:
    """(5, 2): the closed outline of a rectangle."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], dtype=float)


def patient(image: Dataset, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, 2) continuous pixels -> (n, 3) millimetres; the position is a centre."""
    position = np.array([float(one) for one in image.ImagePositionPatient])
    cosines = np.array([float(one) for one in image.ImageOrientationPatient])
    rows, columns = (float(one) for one in image.PixelSpacing)
    x, y = (pixels - 0.5).T
    along, down = cosines[:3], cosines[3:]
    return position + np.outer(x * columns, along) + np.outer(y * rows, down)


def scoord3d_rectangle(
    image: Dataset, box: Box = BOX, *, kind: str = "POLYGON", named: bool = False
) -> Dataset:
    """A TID 1500 report with a rectangle in the patient's coordinates.

    Args:
        named: The group also names the image, as the source of the region.
    """
    source = as_evidence(image)
    region = sr.ImageRegion3D(
        sr.GraphicTypeValues3D(kind),
        patient(image, corners(box)),
        frame_of_reference_uid=source.FrameOfReferenceUID,
    )
    with lenient():
        group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=derived("tracking", source.SOPInstanceUID, str(box)),
                identifier="lesion",
            ),
            referenced_region=region,
            finding_type=codes.SCT.Lesion,
        )
        if named:
            group[0].ContentSequence.append(
                sr.SourceImageForSegmentation(source.SOPClassUID, source.SOPInstanceUID)
            )
        report = _report(source, [group])
    return reread(report)


def adjudicated_rectangle(image: Dataset, box: Box = BOX) -> Dataset:
    """A report whose observer is the adjudicator of this procedure."""
    report = sr_rectangle(image, box)
    for item in list(report.ContentSequence):
        if item.get("ValueType") == "PNAME":
            role = Dataset()
            role.RelationshipType = "HAS OBS CONTEXT"
            role.ValueType = "CODE"
            role.ConceptNameCodeSequence = [
                sr.CodedConcept(
                    "121011", "DCM", "Person Observer's Role in this Procedure"
                )
            ]
            role.ConceptCodeSequence = [ADJUDICATOR]
            report.ContentSequence.append(role)
    return reread(report)


def _report(source: Dataset, groups: list) -> Dataset:
    observer = sr.ObserverContext(
        sr.CodedConcept.from_code(codes.DCM.Person),
        sr.PersonObserverIdentifyingAttributes(name=READER),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=codes.cid100.MRIUnspecifiedBodyRegion,
        imaging_measurements=groups,
    )
    return sr.Comprehensive3DSR(
        evidence=[source],
        content=content[0],
        series_instance_uid=derived("SR3D", source.SOPInstanceUID),
        series_number=52,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="ACME",
        is_complete=True,
        content_date=AT.date(),
        content_time=AT.time(),
    )


def display_rectangle(
    image: Dataset, box: Box = BOX, area: tuple[int, int, int, int] | None = None
) -> Dataset:
    """A presentation state in DISPLAY units of an area of pixel numbers from 1."""
    state = gsps_rectangle([image], box)
    left, top, right, bottom = area or (1, 1, image.Columns, image.Rows)
    shown = state.DisplayedAreaSelectionSequence[0]
    shown.DisplayedAreaTopLeftHandCorner = [left, top]
    shown.DisplayedAreaBottomRightHandCorner = [right, bottom]
    graphic = state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    graphic.GraphicAnnotationUnits = "DISPLAY"
    size = np.array([right - left + 1, bottom - top + 1])
    fractions = (corners(box) - [left - 1, top - 1]) / size
    graphic.GraphicData = fractions.ravel().tolist()
    return reread(state)


def compound_rectangle(
    image: Dataset, box: Box = BOX, *, with_simple: bool = True, **attributes: object
) -> Dataset:
    """A presentation state with a compound RECTANGLE, and its simple double."""
    state = gsps_rectangle([image], box)
    annotation = state.GraphicAnnotationSequence[0]
    compound = Dataset()
    compound.CompoundGraphicInstanceID = 1
    compound.CompoundGraphicUnits = "PIXEL"
    compound.GraphicDimensions = 2
    compound.NumberOfGraphicPoints = 2
    compound.GraphicData = list(box)
    compound.CompoundGraphicType = "RECTANGLE"
    compound.GraphicFilled = "N"
    for keyword, value in attributes.items():
        setattr(compound, keyword, value)
    annotation.CompoundGraphicSequence = [compound]
    annotation.GraphicObjectSequence[0].CompoundGraphicInstanceID = 1
    if not with_simple:
        del annotation.GraphicObjectSequence
    return reread(state)


def mask(image: Dataset, box: Box) -> NDArray[np.uint8]:
    """(rows, columns): 1 in every pixel that a rectangle touches."""
    x0, y0, x1, y1 = whole(box)
    found = np.zeros((image.Rows, image.Columns), dtype=np.uint8)
    found[int(y0) : int(y1), int(x0) : int(x1)] = 1
    return found


def whole(box: Box) -> Box:
    """The whole pixels that a rectangle touches."""
    low, high = np.floor(box[:2]), np.ceil(box[2:])
    return (*low.tolist(), *high.tolist())


def segmentation(
    images: Sequence[Dataset],
    masks: NDArray,
    kind: str = "BINARY",
    **options: object,
) -> Dataset:
    """A segmentation of masks (slices, rows, columns[, segments])."""
    sources = [as_evidence(image) for image in images]
    if kind == "LABELMAP":
        count = int(masks.max())
    else:
        count = masks.shape[3] if masks.ndim == 4 else 1
    algorithm = {"algorithm_type": "MANUAL"}
    with lenient():
        made = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=masks,
            segmentation_type=kind,
            segment_descriptions=[
                hd.seg.SegmentDescription(
                    segment_number=n + 1,
                    segment_label=f"lesion {n + 1}",
                    segmented_property_category=(
                        codes.SCT.MorphologicallyAbnormalStructure
                    ),
                    segmented_property_type=codes.SCT.Lesion,
                    tracking_uid=derived("segment", str(n)),
                    tracking_id=f"lesion {n + 1}",
                    **algorithm,
                )
                for n in range(count)
            ],
            series_instance_uid=derived("SEG", sources[0].SOPInstanceUID),
            series_number=53,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="ACME",
            manufacturer_model_name="Workstation",
            software_versions=["1"],
            device_serial_number="1",
            content_creator_name=READER,
            content_label="ROI",
            **options,
        )
    return reread(made)


def seg_rectangle(image: Dataset, box: Box = BOX, **options: object) -> Dataset:
    """A binary segmentation of one rectangle on one slice."""
    return segmentation([image], mask(image, box)[None], **options)


def without_sources(seg: Dataset) -> Dataset:
    """The same segmentation, naming no image anywhere."""
    for groups in seg.PerFrameFunctionalGroupsSequence:
        groups.pop("DerivationImageSequence", None)
    seg.pop("ReferencedSeriesSequence", None)
    return reread(seg)


def structure_set(
    image: Dataset,
    contours: Sequence[tuple[Dataset, NDArray[np.float64]]],
    *,
    named: bool = True,
    decimals: int = 4,
) -> Dataset:
    """A structure set with one ROI; each contour is (n, 2) pixels on an image."""
    made = Dataset()
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID"):
        setattr(made, keyword, image.get(keyword))
    made.SOPClassUID, made.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    made.SeriesInstanceUID = derived("RTSTRUCT", image.SOPInstanceUID)
    made.Modality, made.Manufacturer = "RTSTRUCT", "ACME"
    made.StructureSetLabel = "ROI"
    made.StructureSetDate, made.StructureSetTime = f"{AT:%Y%m%d}", f"{AT:%H%M%S}"
    roi, observed, outline = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = 1, "index lesion"
    roi.ReferencedFrameOfReferenceUID = image.FrameOfReferenceUID
    roi.ROIGenerationAlgorithm = "MANUAL"
    observed.ObservationNumber = observed.ReferencedROINumber = 1
    observed.RTROIInterpretedType, observed.ROIInterpreter = "GTV", READER
    outline.ReferencedROINumber = 1
    outline.ContourSequence = [
        _contour(on, pixels, named=named, decimals=decimals) for on, pixels in contours
    ]
    made.StructureSetROISequence = [roi]
    made.RTROIObservationsSequence = [observed]
    made.ROIContourSequence = [outline]
    return reread(with_meta(made))


def _contour(
    image: Dataset, pixels: NDArray[np.float64], *, named: bool, decimals: int
) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(pixels)
    numbers = patient(image, pixels).ravel()
    contour.ContourData = [f"{one:.{decimals}f}" for one in numbers]
    if named:
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        contour.ContourImageSequence = [reference]
    return contour


def rtstruct_rectangle(
    image: Dataset, box: Box = BOX, *, named: bool = True, decimals: int = 4
) -> Dataset:
    """A structure set with the four corners of one rectangle."""
    outline = (image, corners(box)[:4])
    return structure_set(image, [outline], named=named, decimals=decimals)


def key_object(image: Dataset, title: object = codes.DCM.OfInterest) -> Dataset:
    """A key object selection of one image."""
    source = as_evidence(image)
    with lenient():
        made = hd.ko.KeyObjectSelectionDocument(
            evidence=[source],
            content=hd.ko.KeyObjectSelection(title, [source]),
            series_instance_uid=derived("KO", source.SOPInstanceUID),
            series_number=54,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="ACME",
        )
    return reread(made)


def with_overlay(
    image: Dataset,
    bits: NDArray,
    origin: tuple[int, int] = (1, 1),
    group: int = 0x6000,
    **elements: tuple[int, str, object],
) -> Dataset:
    """Put an overlay plane (rows, columns) or (frames, rows, columns) on an image."""
    rows, columns = bits.shape[-2:]
    packed = np.packbits(bits.ravel().astype(bool), bitorder="little").tobytes()
    values = {
        0x0010: ("US", rows),
        0x0011: ("US", columns),
        0x0040: ("CS", "G"),
        0x0050: ("SS", list(origin)),
        0x0100: ("US", 1),
        0x0102: ("US", 0),
        0x3000: ("OW", packed + b"\0" * (len(packed) % 2)),
    }
    if bits.ndim == 3:
        values[0x0015] = ("IS", len(bits))
    for element, vr, value in elements.values():
        values[element] = (vr, value)
    for element, (vr, value) in values.items():
        image.add_new(Tag(group, element), vr, value)
    return image


def outline(image: Dataset, box: Box = BOX) -> NDArray[np.uint8]:
    """(rows, columns): the border of the whole pixels of a rectangle, drawn."""
    drawn = mask(image, box)
    x0, y0, x1, y1 = (int(one) for one in whole(box))
    drawn[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = 0
    return drawn


def with_meta(made: Dataset) -> Dataset:
    """Give a data set the file meta information that writing it needs."""
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def images_of(folder: Path, *datasets: Dataset) -> tuple[MrImage, ...]:
    """The images of a study, read from files as the worker does."""
    return read_study(store(folder, datasets)).images


Writer = Callable[[Dataset, Box], Dataset]

EXACT: dict[str, Writer] = {
    "SR": sr_rectangle,
    "SR like OHIF": lambda image, box: sr_rectangle(image, box, like_ohif=True),
    "SCOORD3D": scoord3d_rectangle,
    "SCOORD3D polyline": lambda image, box: scoord3d_rectangle(
        image, box, kind="POLYLINE"
    ),
    "SCOORD3D with image": lambda image, box: scoord3d_rectangle(
        image, box, named=True
    ),
    "GSPS": lambda image, box: gsps_rectangle([image], box),
    "GSPS display": display_rectangle,
    "GSPS compound": compound_rectangle,
    "GSPS compound alone": lambda image, box: compound_rectangle(
        image, box, with_simple=False
    ),
    "RTSTRUCT": rtstruct_rectangle,
    "RTSTRUCT without images": lambda image, box: rtstruct_rectangle(
        image, box, named=False
    ),
}
"""Carriers that keep a rectangle as it was drawn."""

WHOLE: dict[str, Writer] = {
    "SEG": seg_rectangle,
    "SEG without images": lambda image, box: without_sources(seg_rectangle(image, box)),
    "SEG fractional": lambda image, box: seg_rectangle(image, box, kind="FRACTIONAL"),
    "SEG label map": lambda image, box: seg_rectangle(image, box, kind="LABELMAP"),
}
"""Carriers that keep the whole pixels that a rectangle touches."""
