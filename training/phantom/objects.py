"""DICOM objects of a phantom patient: MR slices, GSPS and SR rectangles.

Labels stand nowhere in them. UIDs and dates follow from the seed alone, so the same
cohort is written twice with the same bytes.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import highdicom as hd
import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom import DataElement, Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from training.phantom.render import Phase, View
from training.phantom.scanner import Grid, Scanner
from worker.preprocess import Box

MANUFACTURER: Final = "Sentinode"
MODEL: Final = "Phantom"
IMPLEMENTATION_UID: Final = generate_uid(entropy_srcs=["sentinode", "phantom"])
PHASE_SECONDS: Final = 90


@dataclass(frozen=True, slots=True)
class Visit:
    """One study of one phantom patient; `key` makes its UIDs."""

    key: str
    patient_id: str
    age: int
    at: datetime
    centre: int

    def uid(self, *parts: str) -> str:
        """Return the UID of a part of the study; no parts means the study itself."""
        return str(generate_uid(entropy_srcs=[self.key, *parts]))


@dataclass(frozen=True, slots=True)
class Shot:
    """One slice: its view, scanner, grid and pixels (rows, columns)."""

    view: View
    scanner: Scanner
    grid: Grid
    pixels: NDArray[np.uint16]


def mr_image(visit: Visit, shot: Shot) -> Dataset:
    """Build one MR Image Storage instance (PS3.3 A.4)."""
    phase, number = shot.view.phase, list(Phase).index(shot.view.phase) + 1
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.ImplementationClassUID = IMPLEMENTATION_UID
    image.SOPClassUID = MRImageStorage
    image.SOPInstanceUID = visit.uid(phase, str(shot.view.slice))
    _add_study(image, visit)
    image.Modality = "MR"
    image.Manufacturer = MANUFACTURER
    image.ManufacturerModelName = f"{MODEL} {visit.centre}"
    image.SeriesInstanceUID = visit.uid("series", phase)
    image.SeriesNumber = 10 + number
    image.SeriesDescription = f"t1 dyn {phase}"
    image.BodyPartExamined = "BREAST"
    image.Laterality = ""  # both breasts are imaged
    image.PatientPosition = "HFP"
    image.FrameOfReferenceUID = visit.uid("frame of reference")
    image.PositionReferenceIndicator = ""
    at = visit.at + timedelta(seconds=PHASE_SECONDS * (number - 1))
    image.SeriesDate = image.AcquisitionDate = image.ContentDate = f"{at:%Y%m%d}"
    image.SeriesTime = image.AcquisitionTime = image.ContentTime = f"{at:%H%M%S}"
    image.AcquisitionNumber = number
    image.TemporalPositionIdentifier = number
    image.NumberOfTemporalPositions = len(Phase)
    _add_sequence(image)
    _add_plane(image, shot)
    return image


def _add_study(image: Dataset, visit: Visit) -> None:
    image.SpecificCharacterSet = "ISO_IR 192"
    image.PatientName = f"Phantom^{visit.patient_id}"
    image.PatientID = visit.patient_id
    image.PatientBirthDate = f"{visit.at.year - visit.age}0101"
    image.PatientSex = "F"
    image.PatientAge = f"{visit.age:03d}Y"
    image.StudyInstanceUID = visit.uid()
    image.StudyDate = f"{visit.at:%Y%m%d}"
    image.StudyTime = f"{visit.at:%H%M%S}"
    image.StudyID = "1"
    image.AccessionNumber = ""
    image.ReferringPhysicianName = ""
    image.StudyDescription = "MR breast dynamic contrast, synthetic phantom"


def _add_sequence(image: Dataset) -> None:
    """Add the MR Image Module (PS3.3 C.8.3.1)."""
    image.ScanningSequence = "GR"
    image.SequenceVariant = ["SP", "OSP"]
    image.ScanOptions = "FS"
    image.MRAcquisitionType = "3D"
    image.RepetitionTime = "4.5"
    image.EchoTime = "1.6"
    image.EchoTrainLength = 1
    image.FlipAngle = "10"
    image.MagneticFieldStrength = "1.5"


def _add_plane(image: Dataset, shot: Shot) -> None:
    """Add plane and pixels; x to the left, y to the back (PS3.3 C.7.6.2)."""
    scanner, view, grid = shot.scanner, shot.view, shot.grid
    image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER", "DYNAMIC"]
    image.InstanceNumber = view.slice + 100
    turn = scanner.turn
    image.ImageOrientationPatient = [turn, 0, 0, 0, turn, 0]
    corner = (grid.x[0], grid.y[0], view.slice * view.thickness)
    image.ImagePositionPatient = [f"{value:.3f}" for value in corner]
    image.SliceLocation = f"{corner[2]:.3f}"
    image.PixelSpacing = [f"{scanner.spacing:.2f}"] * 2
    image.SliceThickness = image.SpacingBetweenSlices = f"{view.thickness:.2f}"
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = shot.pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    high = int(np.percentile(shot.pixels, 99.9))
    image.WindowCenter, image.WindowWidth = str(high / 2), str(max(high, 1))
    image.PixelData = shot.pixels.astype("<u2").tobytes()


def _outline(box: Box) -> NDArray[np.float64]:
    """Return the rectangle as a closed polyline, (5, 2) of x and y."""
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])


def gsps_rectangle(visit: Visit, image: Dataset, box: Box) -> Dataset:
    """Build a presentation state with the reader's rectangle (PS3.3 A.33.1)."""
    layer = hd.pr.GraphicLayer(layer_name="LESION", order=1, description="Rectangle")
    outline = hd.pr.GraphicObject(
        graphic_type=hd.pr.GraphicTypeValues.POLYLINE,
        graphic_data=_outline(box),
        units=hd.pr.AnnotationUnitsValues.PIXEL,
    )
    state = hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        series_instance_uid=visit.uid("series", "gsps"),
        series_number=90,
        sop_instance_uid=visit.uid("gsps"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=f"{MODEL} reader",
        software_versions="1",
        device_serial_number="1",
        content_label="ROI",
        graphic_layers=[layer],
        graphic_annotations=[
            hd.pr.GraphicAnnotation(
                referenced_images=[image],
                graphic_layer=layer,
                graphic_objects=[outline],
            )
        ],
        voi_lut_transformations=[
            hd.pr.SoftcopyVOILUTTransformation(
                window_center=float(image.WindowCenter),
                window_width=float(image.WindowWidth),
            )
        ],
        content_creator_name="Reader^One",
        concept_name=codes.DCM.ImagingMeasurementReport,
    )
    state.Laterality = _laterality(image, box)
    _date(state, visit)
    return state


def _laterality(image: Dataset, box: Box) -> str:
    middle = (box[0] + box[2]) / 2 - 0.5
    step = float(image.PixelSpacing[1]) * float(image.ImageOrientationPatient[0])
    return "L" if float(image.ImagePositionPatient[0]) + middle * step > 0 else "R"


@dataclass(frozen=True, slots=True)
class Author:
    """Who says that a rectangle is there, and with what equipment."""

    name: str = "Reader^One"
    model: str = f"{MODEL} reader"


def sr_rectangle(
    visit: Visit, image: Dataset, box: Box, author: Author = Author()
) -> Dataset:
    """Build a TID 1500 report with the reader's rectangle as a SCOORD polyline."""
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=_outline(box),
        source_image=sr.SourceImageForRegion.from_source_image(image),
    )
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=visit.uid("lesion"), identifier="Lesion 1"
        ),
        referenced_region=region,
        finding_type=codes.SCT.Lesion,
        finding_sites=[sr.FindingSite(codes.SCT.Breast)],
    )
    reader = sr.PersonObserverIdentifyingAttributes(name=author.name)
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_person_context=sr.ObserverContext(
                observer_type=codes.DCM.Person, observer_identifying_attributes=reader
            )
        ),
        procedure_reported=codes.cid100.MRIUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    document = sr.ComprehensiveSR(
        evidence=[image],
        content=report,
        series_instance_uid=visit.uid("series", "sr"),
        series_number=91,
        sop_instance_uid=visit.uid("sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=author.model,
        is_complete=True,
        is_final=True,
        is_verified=False,
    )
    _date(document, visit)
    return document


CLOCK_PREFIXES: Final = (
    "Content",
    "Contribution",
    "InstanceCreation",
    "Observation",
    "PresentationCreation",
    "Series",
)


def _date(document: Dataset, visit: Visit) -> None:
    """Replace the clock's dates by the visit's, wherever highdicom put them."""
    at = visit.at + timedelta(hours=1)
    values = {"DA": f"{at:%Y%m%d}", "TM": f"{at:%H%M%S}", "DT": f"{at:%Y%m%d%H%M%S}"}

    def replace(_: Dataset, element: DataElement) -> None:
        if element.VR in values and element.keyword.startswith(CLOCK_PREFIXES):
            element.value = values[element.VR]

    document.walk(replace)
