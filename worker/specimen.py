"""A small synthetic breast MRI study with a marked lesion, to try a system with.

No patient: an ellipse that takes up contrast agent in smooth tissue, on three slices
before and after contrast, and a presentation state with the rectangle around it.
"""

from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PATIENT_ID: Final = "SENTINODE-SELFTEST"
PATIENT_NAME: Final = "Selftest^Sentinode"
MR_IMAGE: Final = "1.2.840.10008.5.1.4.1.1.4"
PRESENTATION_STATE: Final = "1.2.840.10008.5.1.4.1.1.11.1"

SIZE: Final = 192
SPACING_MM: Final = 0.9
CENTRE: Final = (70.0, 92.0)
RADII: Final = (11.0, 13.0)
BOX: Final = (54.0, 74.0, 86.0, 110.0)
"""Rectangle (x0, y0, x1, y1) around the lesion in continuous pixels: 29 x 32 mm."""

PHASES: Final = ((0.0, "pre"), (1.0, "post 1"))


def specimen(at: datetime) -> list[Dataset]:
    """Return the instances of a study with UIDs of its own, images first."""
    study = generate_uid()
    frame_of_reference = generate_uid()
    images = []
    for number, (uptake, name) in enumerate(PHASES):
        series = generate_uid()
        for position in (-1, 0, 1):
            image = _image(_slice(uptake, position, seed=number), at)
            image.StudyInstanceUID, image.SeriesInstanceUID = study, series
            image.FrameOfReferenceUID = frame_of_reference
            image.SeriesNumber, image.AcquisitionNumber = number + 1, number + 1
            image.SeriesDescription = f"t1 fl3d dynamic {name}"
            image.InstanceNumber = position + 2
            image.ImagePositionPatient = [5.0, -80.0, 2.0 * position]
            image.AcquisitionTime = f"{at:%H}{20 + 2 * number}00"
            images.append(image)
    marked = images[len(images) // len(PHASES) + 1]
    return [*images, _rectangle(marked, at)]


def _slice(uptake: float, position: int, seed: int) -> NDArray[np.uint16]:
    """Draw one slice (SIZE, SIZE): tissue, lesion, vessels and noise."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float64)
    rng = np.random.default_rng([seed, position + 1])
    tissue = 180 + 40 * np.sin(x / 19) * np.cos(y / 23) + 25 * np.sin((x + y) / 7)
    shrunk = 1 - 0.15 * abs(position)
    distance = np.hypot(
        (x - CENTRE[0]) / (RADII[0] * shrunk), (y - CENTRE[1]) / (RADII[1] * shrunk)
    )
    edge = 1 / (1 + np.exp((distance - 1) * 9))
    texture = 1 + 0.12 * np.sin(x / 2.3) * np.cos(y / 2.9)
    body = np.hypot((x - 96) / 92, (y - 110) / 100) < 1
    image = np.where(
        body, tissue * (1 + 0.1 * uptake) + 420 * uptake * edge * texture, 8
    )
    return (image + rng.normal(0, 7, image.shape)).clip(0, 4095).astype(np.uint16)


def _patient(dataset: Dataset, at: datetime) -> None:
    dataset.PatientName, dataset.PatientID = PATIENT_NAME, PATIENT_ID
    dataset.PatientBirthDate, dataset.PatientSex = "", "F"
    dataset.StudyDate, dataset.StudyTime = f"{at:%Y%m%d}", f"{at:%H%M%S}"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyID, dataset.StudyDescription = "1", "BREAST MR - SELF TEST"
    dataset.Laterality = "L"
    dataset.Manufacturer = "SELFTEST"


def _image(pixels: NDArray[np.uint16], at: datetime) -> Dataset:
    image = _instance(MR_IMAGE)
    _patient(image, at)
    image.Modality, image.ManufacturerModelName = "MR", "specimen"
    image.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    image.SeriesDate = image.AcquisitionDate = image.ContentDate = f"{at:%Y%m%d}"
    image.SeriesTime = image.ContentTime = f"{at:%H%M%S}"
    image.BodyPartExamined, image.PatientPosition = "BREAST", "HFP"
    image.ScanningSequence, image.SequenceVariant = "GR", "SP"
    image.ScanOptions, image.MRAcquisitionType = "FS", "3D"
    image.SliceThickness, image.RepetitionTime, image.EchoTime = 2.0, 4.5, 1.7
    image.EchoTrainLength, image.FlipAngle = 1, 10
    image.MagneticFieldStrength = 1.5
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    image.PositionReferenceIndicator = ""
    image.PixelSpacing = [SPACING_MM, SPACING_MM]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelRepresentation = 0
    image.PixelData = pixels.tobytes()
    return image


def _rectangle(image: Dataset, at: datetime) -> Dataset:
    """Mark the lesion as a workstation does: a closed polyline on one image."""
    state = _instance(PRESENTATION_STATE)
    _patient(state, at)
    state.Modality, state.StudyInstanceUID = "PR", image.StudyInstanceUID
    state.SeriesInstanceUID, state.SeriesNumber = generate_uid(), 90
    state.InstanceNumber = 1
    state.PresentationCreationDate = f"{at:%Y%m%d}"
    state.PresentationCreationTime = f"{at:%H%M%S}"
    state.ContentLabel, state.ContentDescription = "ROI", "self test"
    state.ContentCreatorName = PATIENT_NAME
    reference = _dataset(
        ReferencedSOPClassUID=image.SOPClassUID,
        ReferencedSOPInstanceUID=image.SOPInstanceUID,
    )
    state.ReferencedSeriesSequence = [
        _dataset(
            SeriesInstanceUID=image.SeriesInstanceUID,
            ReferencedImageSequence=[reference],
        )
    ]
    state.GraphicLayerSequence = [_dataset(GraphicLayer="ROI", GraphicLayerOrder=1)]
    state.GraphicAnnotationSequence = [
        _dataset(
            GraphicLayer="ROI",
            ReferencedImageSequence=[reference],
            GraphicObjectSequence=[_outline()],
        )
    ]
    state.DisplayedAreaSelectionSequence = [
        _dataset(
            DisplayedAreaTopLeftHandCorner=[1, 1],
            DisplayedAreaBottomRightHandCorner=[image.Columns, image.Rows],
            PresentationSizeMode="SCALE TO FIT",
            PresentationPixelSpacing=image.PixelSpacing,
        )
    ]
    state.PresentationLUTShape = "IDENTITY"
    return state


def _outline() -> Dataset:
    x0, y0, x1, y1 = BOX
    return _dataset(
        GraphicAnnotationUnits="PIXEL",
        GraphicDimensions=2,
        NumberOfGraphicPoints=5,
        GraphicData=[x0, y0, x1, y0, x1, y1, x0, y1, x0, y0],
        GraphicType="POLYLINE",
        GraphicFilled="N",
    )


def _dataset(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def _instance(sop_class_uid: str) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class_uid, generate_uid()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset
