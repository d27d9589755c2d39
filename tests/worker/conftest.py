"""A ledger, a spool and both models, as one process of the worker has them."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
import torch
from pydicom import Dataset
from pynetdicom.dsutils import encode

from dicom_node import db, ledger, schema
from dicom_node.db import now
from dicom_node.intake import Intake, StoreRequest
from dicom_node.ledger import Conflict, QuietPeriods
from dicom_node.report.device import Device
from dicom_node.settings import load, patient_secret
from dicom_node.spool import Spool
from dicom_node.study import Peer, ReceivedInstance, StudyUid
from tests import dicom_objects, markers
from tests.archives import Desk
from tests.pathology_site import inbox_of
from worker import models as model_store
from worker import outcomes, weights
from worker.inbox import Inbox
from worker.pipeline import Cascade
from worker.settings import WorkerSettings
from worker.tasks.analysis import Site, analyze
from worker.tasks.dispatch import Broker

CPU = torch.device("cpu")
QUIET = QuietPeriods(timedelta(0))
PACS = Peer("PACS", "127.0.0.1", 9)
DEVICE = Device(uid="1.2.826.0.1.3680043.8.498.77", serial="1", software_version="0")


@dataclass
class Bench:
    """One site under test, and a hand to put studies into it."""

    site: Site
    sent: list[tuple[str, list[str]]] = field(default_factory=list)
    backlog: int = 0
    quiet: QuietPeriods = QUIET

    @property
    def sessions(self):
        return self.site.sessions

    def receive(self, *datasets: Dataset) -> StudyUid:
        """Enter objects as the listener would: file, then row."""
        arrivals = [self._store(dataset) for dataset in datasets]
        with self.sessions.begin() as session:
            ledger.record(session, arrivals, self.quiet, now())
        return arrivals[0].study_uid

    def _store(self, dataset: Dataset) -> ReceivedInstance:
        kept = self.keep(dataset)
        assert isinstance(kept, ReceivedInstance)
        return kept

    def keep(self, dataset: Dataset) -> ReceivedInstance | Conflict:
        """Write an object's file, without its row."""
        syntax = dataset.file_meta.TransferSyntaxUID
        encoded = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
        return self.intake.keep(
            StoreRequest(
                sop_class_uid=dataset.SOPClassUID,
                sop_instance_uid=dataset.SOPInstanceUID,
                transfer_syntax_uid=syntax,
                calling_ae="PACS",
                dataset=BytesIO(encoded),
            )
        )

    @property
    def intake(self) -> Intake:
        """What the listener keeps objects with."""
        secret = patient_secret(self.site.settings)
        return Intake(self.site.spool, secret, 1, 2**30)

    def queue(self, uid: StudyUid) -> None:
        """Complete a study by hand."""
        with self.sessions.begin() as session:
            ledger.complete(session, uid, now())

    def study(self, uid: StudyUid):
        with self.sessions() as session:
            return ledger.study(session, uid)

    def results(self, uid: StudyUid):
        with self.sessions() as session:
            return outcomes.results(session, uid)

    @property
    def broker(self) -> Broker:
        """A queue that remembers what it was sent."""
        return Broker(self._send, lambda _queue: self.backlog)

    def _send(self, name: str, args: Sequence[str]) -> None:
        self.sent.append((name, list(args)))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of the newest schema, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "template.db"
    schema.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def desk(tmp_path: Path, migrated: Path) -> Iterator[Desk]:
    """Results on their way, and a clock that the test moves; no model is needed."""
    folder = tmp_path / "site"
    folder.mkdir()
    file = shutil.copy(migrated, folder / "sentinode.db")
    made = Desk.of(tmp_path, f"sqlite:///{file}")
    yield made
    made.sessions.kw["bind"].dispose()


@pytest.fixture
def database_url() -> str | None:
    """None is SQLite in the data folder; a module may name another database."""
    return None


@pytest.fixture
def settings(
    tmp_path: Path, quick_models: Path, database_url: str | None
) -> WorkerSettings:
    return load(
        WorkerSettings,
        data_dir=tmp_path / "site",
        database_url=database_url,
        models_dir=quick_models,
        pacs=(PACS,),
    )


@pytest.fixture
def bench(settings: WorkerSettings) -> Iterator[Bench]:
    schema.upgrade(settings.database)
    engine = db.connect(settings.database)
    settings.spool.mkdir(parents=True)  # as the listener does
    site = Site(db.writing(engine), Spool(settings.spool), settings, DEVICE)
    made = Bench(site)
    yield made
    engine.dispose()
    markers.look("a message", json.dumps(made.sent))


@pytest.fixture(scope="session")
def cascade(quick_models: Path) -> Cascade:
    found = {model.stage: model for model in model_store.installed(quick_models)}
    sln, nsln = (
        weights.load_stage(
            model_store.folder(quick_models, found[stage].name, found[stage].version),
            CPU,
        )
        for stage in ("SLN", "NSLN")
    )
    return Cascade(sln, nsln, {})


@pytest.fixture
def source(cascade: Cascade) -> Callable[..., Cascade]:
    """What hands out the cascade in service."""
    return lambda _sessions: cascade


@pytest.fixture
def slices() -> list[Dataset]:
    return dicom_objects.dynamic_series()


@pytest.fixture
def mark(slices: list[Dataset]) -> Dataset:
    """A rectangle on the middle slice of the first phase after contrast."""
    return dicom_objects.gsps_rectangle([slices[4]])


@pytest.fixture
def study(bench: Bench, slices, mark, source) -> StudyUid:
    """An analysed study with one case, the left one, of 2026-03-04."""
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid


@pytest.fixture
def box(bench: Bench) -> Inbox:
    """Where messages of pathology go."""
    return inbox_of(bench)
