"""Databases, listeners and data sets for the tests of the DICOM edge."""

import gc
import shutil
import warnings
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode

from dicom_node import db, ledger, schema
from dicom_node.association import pausing
from dicom_node.completion import QuietPeriods
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load
from dicom_node.study import ReceivedInstance, SopInstanceUid, StudyUid

T0 = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
MR = "1.2.840.10008.5.1.4.1.1.4"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
STUDY = StudyUid("1.2.3.4")
QUIET = QuietPeriods(timedelta(seconds=120))
CALLER = "SCANNER"


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "template.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


def make_database(request, kind: str) -> str:
    """Return the URL of a fresh migrated database."""
    if kind == "sqlite":
        template = request.getfixturevalue("migrated_file")
        folder = request.getfixturevalue("tmp_path")
        return f"sqlite:///{shutil.copy(template, folder / 'sentinode.db')}"
    cluster = request.getfixturevalue("postgres")
    return cluster.create(template=cluster.migrated)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request) -> str:
    """The URL of a migrated database, on each kind that is supported."""
    return make_database(request, request.param)


@pytest.fixture
def sessions(database):
    engine = db.connect(database)
    yield db.writing(engine)
    engine.dispose()


def arrival(number: int = 1, **changes) -> ReceivedInstance:
    """An instance as the listener describes it; by default an MR image of STUDY."""
    plain = ReceivedInstance(
        study_uid=STUDY,
        series_uid="1.2.3.4.5",
        sop_instance_uid=SopInstanceUid(f"1.2.3.4.5.{number}"),
        sop_class_uid=MR,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        path=Path(f"instances/aa/bb/{number}.dcm"),
        size=1000,
        sha256=f"{number:064x}",
        patient_key="a" * 64,
        calling_ae=CALLER,
        received_at=T0,
    )
    return replace(plain, **changes)


def receive(sessions, *arrivals: ReceivedInstance, at: datetime = T0) -> None:
    with sessions.begin() as session:
        ledger.record(session, arrivals or [arrival()], QUIET, at)


def dataset(number: int = 1, study: str = "1.2.3.4", **attributes) -> Dataset:
    """A small MR object; an attribute given as None is left out."""
    values = {
        "SOPClassUID": MR,
        "SOPInstanceUID": f"{study}.5.{number}",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.5",
        "PatientName": "Marker^Patient",
        "PatientID": "MARKER-PID",
        "PatientBirthDate": "19700203",
        "Modality": "MR",
        "Rows": 64,
        "Columns": 64,
        "BitsAllocated": 16,
        "PixelData": bytes([number % 251]) * 8192,
    }
    made = Dataset()
    for keyword, value in (values | attributes).items():
        if value is not None:
            setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.get("SOPInstanceUID", "1.2")
    return made


def encoded(made: Dataset) -> bytes:
    """Encode a data set alone, Explicit VR Little Endian."""
    content = encode(made, is_implicit_vr=False, is_little_endian=True)
    assert content is not None
    return content


@pytest.fixture
def settings(database, tmp_path) -> NodeSettings:
    return load(
        NodeSettings,
        data_dir=tmp_path / "node",
        database_url=database,
        host="127.0.0.1",
        port=0,
        allow=f"{CALLER}@127.0.0.0/8,OTHER",
        quiet_period=120,
        min_free_bytes=1,
    )


@pytest.fixture
def listener(settings, sessions):
    running = Listener(settings, sessions)
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def left_sockets():
    """Collect the sockets that pynetdicom shuts down but leaves to the collector."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def associate(port: int, calling_ae: str = CALLER, called_ae: str = "SENTINODE"):
    """Ask for an association that can carry MR images and reports."""
    entity = AE(calling_ae)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 20
    entity.add_requested_context("1.2.840.10008.1.1")
    for sop_class in (MR, SR):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    return pausing(entity.associate("127.0.0.1", port, ae_title=called_ae))


def store(association, *datasets: Dataset) -> list[int]:
    """Store objects over an association and return the statuses."""
    return [int(association.send_c_store(each).Status) for each in datasets]


def store_all(port: int, *datasets: Dataset, calling_ae: str = CALLER) -> list[int]:
    """Store objects over an association of their own."""
    association = associate(port, calling_ae)
    assert association.is_established
    statuses = store(association, *datasets)
    association.release()
    return statuses
