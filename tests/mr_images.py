"""MR frames and marks as values: what the rules of selection see, without files."""

from dataclasses import replace
from pathlib import Path

from dicom_node.findings import Carrier, Roi
from dicom_node.images import MrImage, StudyObjects
from dicom_node.roi.reading import KeyImage, RoiReading
from dicom_node.selection import explain, select
from dicom_node.study import SopInstanceUid

Box = tuple[float, float, float, float]
BOX: Box = (20.0, 30.0, 44.0, 50.0)
STUDY = "1.2.3"


def frame(series: int = 3, z: float = 0.0, **values: object) -> MrImage:
    """One T1 gradient echo slice of the left breast, 96 x 112 pixels of 1 mm."""
    number = values.pop("number", 1)
    image = MrImage(
        sop_instance_uid=SopInstanceUid(f"1.2.3.{series}.{number}.{round(z * 100)}"),
        sop_class_uid="1.2.840.10008.5.1.4.1.1.4",
        series_uid=f"1.2.3.{series}",
        study_uid=STUDY,
        path=Path(f"{series}-{number}-{z}.dcm"),
        frame=1,
        rows=96,
        columns=112,
        spacing=(1.0, 1.0),
        position=(20.0, -60.0, z),
        orientation=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        thickness=2.0,
        frame_of_reference_uid="1.2.9",
        series_number=series,
        acquisition_number=int(str(number)),
        repetition_time=4.3,
        echo_time=1.7,
        flip_angle=10.0,
        scanning_sequence=("GR",),
        image_type=("ORIGINAL", "PRIMARY", "M", "NORM"),
        description="t1_fl3d_dyn",
        study_description="BREAST MR",
        body_part="BREAST",
    )
    return replace(image, **values)


def series_of_phases(phases: int = 3, slices: int = 3, **values: object):
    """A dynamic study: series 5, 7, 9 ... with slices 2 mm apart, phase by phase."""
    return [
        frame(5 + 2 * n, 2.0 * k, number=n + 1, **values)
        for n in range(phases)
        for k in range(slices)
    ]


def mark(image: MrImage, box: Box = BOX, author: str | None = "Reader^Rita", **values):
    """A rectangle on a frame."""
    roi = Roi(
        image.sop_instance_uid,
        image.frame,
        *box,
        carrier=Carrier.SR,
        carrier_sop_instance_uid=SopInstanceUid(f"1.2.77.{abs(hash((author, box)))}"),
        author=author,
    )
    return replace(roi, **values)


def key(image: MrImage) -> KeyImage:
    """A key object that singles out a frame."""
    return KeyImage(image.sop_instance_uid, image.frame, SopInstanceUid("1.2.88"))


def told(images, marks, *arguments, keys=(), **options):
    """The whole chain for frames and marks."""
    reading = RoiReading(tuple(marks), key_images=tuple(keys))
    return explain(StudyObjects(tuple(images)), reading, *arguments, **options)


def chosen(images, marks, *arguments, keys=(), **options):
    """The choices for frames and marks; raises what stops the study."""
    reading = RoiReading(tuple(marks), key_images=tuple(keys))
    return select(StudyObjects(tuple(images)), reading, *arguments, **options)
