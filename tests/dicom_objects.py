"""DICOM objects for tests: MR slices, and rectangles as workstations write them.

The rectangles come from highdicom, not from the product, so that readers are tested
against another author's idea of the Standard.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
from highdicom import sr
from numpy.typing import NDArray
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from dicom_node.report.evidence import as_evidence
from dicom_node.study import SopInstanceUid, StoredInstance

Box = tuple[float, float, float, float]
BOX: Box = (20.0, 30.0, 44.0, 50.0)
READER = "Reader^Rita"
PATIENT = "Marker^Patient"
STUDY_UID = "1.2.826.0.1.3680043.8.498.1001"
FRAME_OF_REFERENCE_UID = "1.2.826.0.1.3680043.8.498.1002"
AT = datetime(2026, 3, 4, 10, 20, 30, tzinfo=UTC)


SLICE = {
    "SpecificCharacterSet": "ISO_IR 100",
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
    "SOPClassUID": MRImageStorage,
    "StudyDate": "20260304",
    "StudyTime": "091500",
    "SeriesDate": "20260304",
    "SeriesTime": "092000",
    "ContentDate": "20260304",
    "ContentTime": "092100",
    "AccessionNumber": "ACC123",
    "Modality": "MR",
    "Manufacturer": "ACME",
    "ManufacturerModelName": "Magnet 3",
    "ReferringPhysicianName": "Refer^Ring",
    "StudyDescription": "BREAST MR",
    "SeriesDescription": "t1_fl3d_dyn",
    "PatientName": PATIENT,
    "PatientID": "MARKER-PID-1",
    "PatientBirthDate": "19700203",
    "PatientSex": "F",
    "BodyPartExamined": "BREAST",
    "ScanningSequence": "GR",
    "SequenceVariant": "SP",
    "ScanOptions": "FS",
    "MRAcquisitionType": "3D",
    "SliceThickness": 2.0,
    "RepetitionTime": 4.3,
    "EchoTime": 1.7,
    "EchoTrainLength": 1,
    "FlipAngle": 10,
    "MagneticFieldStrength": 3,
    "PatientPosition": "HFP",
    "StudyInstanceUID": STUDY_UID,
    "StudyID": "1",
    "InstanceNumber": 1,
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "FrameOfReferenceUID": FRAME_OF_REFERENCE_UID,
    "PositionReferenceIndicator": "",
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "PixelSpacing": [1.0, 1.0],
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
}


def pixels(
    rows: int = 96, columns: int = 112, *, spot: float = 700
) -> NDArray[np.uint16]:
    """A smooth slice with a bright spot in the middle of BOX."""
    y, x = np.mgrid[:rows, :columns]
    tissue = 200 + 100 * np.sin(x / 17.0) * np.cos(y / 13.0)
    lesion = spot * np.exp(-(((x - 32) / 7.0) ** 2 + ((y - 40) / 6.0) ** 2))
    return (tissue + lesion).astype(np.uint16)


def mr_slice(
    *,
    series_uid: str = "1.2.826.0.1.3680043.8.498.2001",
    series_number: int = 3,
    acquisition_number: int | None = 1,
    position: tuple[float, float, float] = (20.0, -60.0, 0.0),
    image: NDArray[np.uint16] | None = None,
    **attributes: object,
) -> Dataset:
    """One T1 gradient echo slice of a breast; by its position, the left one.

    Args:
        attributes: Any further attributes by keyword; None takes one away.
    """
    ds = Dataset()
    for keyword, value in SLICE.items():
        setattr(ds, keyword, value)
    ds.SOPInstanceUID = derived(series_uid, str(position), str(acquisition_number))
    ds.SeriesInstanceUID, ds.SeriesNumber = series_uid, series_number
    ds.AcquisitionNumber = acquisition_number
    ds.ImagePositionPatient = list(position)
    image = pixels() if image is None else image
    ds.Rows, ds.Columns = image.shape
    ds.PixelData = image.tobytes()
    with lenient():
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def dynamic_series(
    phases: int = 3, slices: int = 3, **attributes: object
) -> list[Dataset]:
    """A dynamic study: one series for each phase, slices 2 mm apart, no times.

    The spot takes up contrast agent: before it, the first phase shows little of it.
    """
    return [
        mr_slice(
            series_uid=f"1.2.826.0.1.3680043.8.498.20{phase:02}",
            series_number=5 + 2 * phase,
            acquisition_number=phase + 1,
            position=(20.0, -60.0, 2.0 * k),
            InstanceNumber=k + 1,
            **{"image": pixels(spot=700 if phase else 100), **attributes},
        )
        for phase in range(phases)
        for k in range(slices)
    ]


def gsps_rectangle(
    images: Sequence[Dataset],
    box: Box = BOX,
    author: str = READER,
    *,
    at: datetime = AT,
    label: str | None = None,
) -> Dataset:
    """A presentation state with a closed polyline of 5 points on each of `images`."""
    sources = [as_evidence(image) for image in images]
    layer = hd.pr.GraphicLayer("ROI", order=1, description="Rectangle")
    with lenient():
        rectangle = hd.pr.GraphicObject(
            graphic_type="POLYLINE",
            graphic_data=_corners(box),
            units="PIXEL",
            tracking_id=label,
            tracking_uid=generate_uid(entropy_srcs=[label]) if label else None,
        )
        state = hd.pr.GrayscaleSoftcopyPresentationState(
            referenced_images=sources,
            series_instance_uid=derived("PR", sources[0].SOPInstanceUID),
            series_number=50,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="ACME",
            manufacturer_model_name="Workstation",
            software_versions=["1"],
            device_serial_number="1",
            content_label="ROI",
            content_creator_name=author,
            graphic_layers=[layer],
            graphic_annotations=[
                hd.pr.GraphicAnnotation(sources, layer, graphic_objects=[rectangle])
            ],
        )
    state.PresentationCreationDate = f"{at:%Y%m%d}"
    state.PresentationCreationTime = f"{at:%H%M%S}"
    return reread(state)


def sr_rectangle(
    image: Dataset,
    box: Box = BOX,
    author: str = READER,
    *,
    at: datetime = AT,
    tracking_uid: str | None = None,
    like_ohif: bool = False,
) -> Dataset:
    """A TID 1500 report with a rectangle on an image.

    Args:
        like_ohif: As OHIF does it: corners in the order 0, 1, 3, 2, 0, and the same
            region under each of two measurements instead of under the group.
    """
    source = as_evidence(image)
    tracking = sr.TrackingIdentifier(
        uid=tracking_uid or derived("tracking", source.SOPInstanceUID, str(box)),
        identifier="Cornerstone3DTools@^0.1.0:RectangleROI",
    )
    observer = sr.ObserverContext(
        sr.CodedConcept.from_code(codes.DCM.Person),
        sr.PersonObserverIdentifyingAttributes(name=author),
    )
    with lenient():
        content = sr.MeasurementReport(
            observation_context=sr.ObservationContext(observer_person_context=observer),
            procedure_reported=codes.cid100.MRIUnspecifiedBodyRegion,
            imaging_measurements=[
                (_ohif_group if like_ohif else _planar_group)(source, box, tracking)
            ],
        )
        report = sr.ComprehensiveSR(
            evidence=[source],
            content=content[0],
            series_instance_uid=derived("SR", source.SOPInstanceUID),
            series_number=51,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="ACME",
            is_complete=True,
            content_date=at.date(),
            content_time=at.time(),
        )
    return reread(report)


def key_object(image: Dataset) -> Dataset:
    """A key object selection of one image; it carries no rectangle."""
    source = as_evidence(image)
    with lenient():
        document = hd.ko.KeyObjectSelectionDocument(
            evidence=[source],
            content=hd.ko.KeyObjectSelection(
                document_title=codes.DCM.OfInterest, referenced_objects=[source]
            ),
            series_instance_uid=derived("KO", source.SOPInstanceUID),
            series_number=52,
            sop_instance_uid=derived("KO instance", source.SOPInstanceUID),
            instance_number=1,
            manufacturer="ACME",
        )
    return reread(document)


def _planar_group(
    source: Dataset, box: Box, tracking: sr.TrackingIdentifier
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_region=sr.ImageRegion(
            sr.GraphicTypeValues.POLYLINE,
            _corners(box),
            sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID),
        ),
        finding_type=codes.SCT.Lesion,
        finding_sites=[sr.FindingSite(codes.SCT.Breast)],
        geometric_purpose=codes.SCT.BoundedBy,
    )


def _ohif_group(
    source: Dataset, box: Box, tracking: sr.TrackingIdentifier
) -> sr.MeasurementsAndQualitativeEvaluations:
    image = sr.SourceImageForRegion(source.SOPClassUID, source.SOPInstanceUID)
    region = sr.CoordinatesForMeasurement(
        sr.GraphicTypeValues.POLYLINE, _corners(box)[[0, 1, 2, 3, 0]], image
    )
    region.GraphicData = _corners(box)[[0, 1, 3, 2, 0]].ravel().tolist()
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        measurements=[
            sr.Measurement(name, value, unit, referenced_coordinates=[region])
            for name, value, unit in (
                (codes.SCT.Area, 480.0, codes.UCUM.SquareMillimeter),
                (codes.SCT.Perimeter, 88.0, codes.UCUM.Millimeter),
            )
        ],
    )


def _corners(box: Box) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])


def derived(*parts: str) -> str:
    """The same UID for the same parts."""
    return str(generate_uid(entropy_srcs=list(parts)))


def encoded(dataset: Dataset) -> bytes:
    """The Part 10 file of a data set."""
    buffer = BytesIO()
    with lenient():
        dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def reread(dataset: Dataset) -> Dataset:
    """A data set as a peer would receive it."""
    return dcmread(BytesIO(encoded(dataset)))


def store(folder: Path, datasets: Sequence[Dataset]) -> list[StoredInstance]:
    """Write data sets as files, as the ledger would hand them on."""
    stored = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number:04}.dcm"
        path.write_bytes(encoded(dataset))
        stored.append(stored_instance(dataset, path))
    return stored


def stored_instance(dataset: Dataset, path: Path) -> StoredInstance:
    """A row of the ledger for a file."""
    return StoredInstance(
        sop_instance_uid=SopInstanceUid(str(dataset.SOPInstanceUID)),
        series_uid=str(dataset.SeriesInstanceUID),
        sop_class_uid=str(dataset.SOPClassUID),
        path=path,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def stored_folder(folder: Path) -> list[StoredInstance]:
    """The rows of the ledger for every DICOM file below a folder."""
    stored = []
    for path in sorted(folder.rglob("*.dcm")):
        with lenient():
            stored.append(stored_instance(dcmread(path, stop_before_pixels=True), path))
    return stored


@contextmanager
def lenient() -> Iterator[None]:
    """Real headers make highdicom and pydicom warn; here that is no news."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def in_another_study(document: Dataset, name: str = "another") -> Dataset:
    """A document as an outside workstation keeps it: under a study of its own."""
    moved = reread(document)
    moved.StudyInstanceUID = derived("study", name)
    moved.SeriesInstanceUID = derived("series", name)
    return moved


def fresh_study(name: str, **attributes: object) -> list[Dataset]:
    """A dynamic study with UIDs of its own, the same for the same name."""
    slices = dynamic_series(**attributes)
    for one in slices:
        for uid in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
            setattr(one, uid, generate_uid(entropy_srcs=[one[uid].value, name]))
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
    return slices
