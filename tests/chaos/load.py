"""What a modality does: make studies, send them, send again what got no Success.

An object that was answered with Success is never sent again: if it is lost then, it
is lost for good. The rectangle goes last, so that no part of a study can be analysed.
"""

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom import AE, build_context

from dicom_node.association import pausing
from tests import dicom_objects
from tests.dicom_objects import BOX, fresh_study, gsps_rectangle, sr_rectangle

MODALITY = "MODALITY"
SUCCESS = 0x0000


@dataclass(frozen=True, slots=True)
class Variant:
    """One kind of study; studies of a kind get the same values."""

    spot: float
    box: tuple[float, float, float, float]
    carrier: str


VARIANTS = (
    Variant(500, BOX, "SR"),
    Variant(700, (18.0, 28.0, 46.0, 52.0), "GSPS"),
    Variant(900, (22.0, 31.0, 42.0, 49.0), "SR"),
    Variant(1100, (16.0, 26.0, 48.0, 54.0), "GSPS"),
)


@dataclass(slots=True)
class Shipment:
    """One study on its way; `digests` are of the data sets as they went out."""

    study_uid: str
    variant: int
    objects: Sequence[Dataset]
    digests: dict[str, str]
    kept: set[str] = field(default_factory=set)

    @property
    def is_kept(self) -> bool:
        """Say whether every object was answered with Success."""
        return len(self.kept) == len(self.objects)


def study(name: str, number: int) -> Shipment:
    """Make a study of a variant, with UIDs that follow from its name."""
    variant = VARIANTS[number]
    patient = hashlib.sha256(name.encode()).hexdigest()[:12]
    images = fresh_study(
        name,
        phases=3,
        slices=2,
        image=dicom_objects.pixels(spot=variant.spot),
        PatientID=patient,
        PatientName=f"Chaos^{patient}",
    )
    for image in images[:2]:
        image.PixelData = dicom_objects.pixels(spot=100).tobytes()
    mark = {"SR": _sr, "GSPS": _gsps}[variant.carrier]
    marked = images[2]  # of the first phase after contrast
    objects = [*images, mark(marked, variant)]
    return Shipment(
        str(images[0].StudyInstanceUID),
        number,
        objects,
        {str(each.SOPInstanceUID): digest(each) for each in objects},
    )


def _sr(image: Dataset, variant: Variant) -> Dataset:
    return sr_rectangle(image, variant.box)


def _gsps(image: Dataset, variant: Variant) -> Dataset:
    return gsps_rectangle([image], variant.box)


def digest(dataset: Dataset) -> str:
    """Return the SHA-256 of a data set as it goes out, in explicit little endian."""
    return hashlib.sha256(data_set(dataset)).hexdigest()


def data_set(dataset: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


class Sender(threading.Thread):
    """Sends one study over one association after another until all is kept."""

    def __init__(self, shipment: Shipment, port: int, pause: float, until: float):
        super().__init__(daemon=True)
        self.shipment = shipment
        self.port = port
        self.pause = pause
        self.until = until

    def run(self) -> None:
        while not self.shipment.is_kept and time.monotonic() < self.until:
            self._send()
            if not self.shipment.is_kept:
                time.sleep(self.pause)

    def _send(self) -> None:
        """Send what is left, in order; stop at the first that is not kept."""
        entity = AE(MODALITY)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
        entity.connection_timeout = 2
        left = [
            each
            for each in self.shipment.objects
            if str(each.SOPInstanceUID) not in self.shipment.kept
        ]
        classes = dict.fromkeys(str(each.SOPClassUID) for each in left)
        contexts = [
            build_context(uid, left[0].file_meta.TransferSyntaxUID) for uid in classes
        ]
        association = pausing(
            entity.associate("127.0.0.1", self.port, contexts, ae_title="SENTINODE")
        )
        if not association.is_established:
            return
        try:
            for each in left:
                status = association.send_c_store(each)
                if status.get("Status") != SUCCESS:
                    return
                self.shipment.kept.add(str(each.SOPInstanceUID))
        except (RuntimeError, ValueError):  # the association ended meanwhile
            return
        finally:
            if association.is_established:
                association.release()
