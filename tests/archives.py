"""Archives that behave as told, and a desk with results on their way to them."""

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.presentation import build_context

from dicom_node import db, outbox
from dicom_node.association import pausing
from dicom_node.contexts import COMMITMENT, COMMITMENT_INSTANCE
from dicom_node.db import Sessions
from dicom_node.destination import Destination
from dicom_node.findings import Document
from dicom_node.images import read_header, read_study
from dicom_node.ledger import QuietPeriods, record
from dicom_node.report.fallback import CHAIN, COMPREHENSIVE_3D
from dicom_node.report.sr import build_sr
from dicom_node.roi import read_rois
from dicom_node.selection import select
from dicom_node.settings import load
from dicom_node.spool import Spool
from dicom_node.study import Peer, ReceivedInstance, SopInstanceUid, StudyUid
from tests import dicom_objects
from tests.report_cases import DEVICE, pending
from worker.settings import WorkerSettings
from worker.tasks.delivery import Site, deliver

T0 = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
SC = "1.2.840.10008.5.1.4.1.1.7"
MR = "1.2.840.10008.5.1.4.1.1.4"
TAKES_ALL = (*CHAIN, SC)


@dataclass
class Archive:
    """A storage SCP that answers as told, keeps what it gets, and may commit.

    `statuses` are answered one after the other, then 0. `commits` is None, or one of
    same, new, never, wrong: how the report comes. `keeps` says of which objects the
    archive claims to have them; `call_back` is where a new association goes.
    """

    takes: tuple[str, ...] = TAKES_ALL
    statuses: list[int] = field(default_factory=list)
    rejects: bool = False
    hangs: bool = False
    abort_at: int | None = None
    commits: str | None = None
    action_status: int = 0
    keeps: object = lambda _: True
    call_back: Peer | None = None
    received: list[tuple[str, str]] = field(default_factory=list)
    objects: dict[str, Dataset] = field(default_factory=dict)
    associations: int = 0
    transactions: list[str] = field(default_factory=list)
    report_statuses: list[int] = field(default_factory=list)
    ae_title: str = "ARCHIVE"
    _released: threading.Event = field(default_factory=threading.Event)
    _server: object = None
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, port: int = 0) -> Peer:
        entity = AE(self.ae_title)
        entity.maximum_associations = 4
        if self.rejects:
            entity.require_calling_aet = ["SOMEBODY-ELSE"]
        contexts = [build_context(uid, ExplicitVRLittleEndian) for uid in self.takes]
        if self.commits is not None:
            contexts.append(build_context(COMMITMENT, ExplicitVRLittleEndian))
        self._server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            contexts=contexts,
            evt_handlers=[
                (evt.EVT_ESTABLISHED, self._established),
                (evt.EVT_C_STORE, self._store),
                (evt.EVT_N_ACTION, self._action),
            ],
        )
        return Peer(self.ae_title, "127.0.0.1", self._server.server_address[1])

    def stop(self) -> None:
        self._released.set()
        if self._server is not None:
            self._server.shutdown()
            self._server = None
        for thread in self._threads:
            thread.join(10)

    def join(self) -> None:
        """Wait for the reports that are on their way."""
        for thread in self._threads:
            thread.join(10)

    def _established(self, event) -> None:
        self.associations += 1

    def _store(self, event) -> int:
        if len(self.received) == self.abort_at:
            event.assoc.abort()
        if self.hangs:
            self._released.wait(20)
        status = self.statuses.pop(0) if self.statuses else 0
        if status == 0 or status & 0xF000 == 0xB000:
            made = event.dataset
            self.objects[str(made.SOPInstanceUID)] = made
            self.received.append((str(made.SOPClassUID), str(made.SOPInstanceUID)))
        return status

    def _action(self, event):
        information = event.action_information
        self.transactions.append(str(information.TransactionUID))
        if self.action_status:
            return self.action_status, None
        if self.commits != "never":
            report = self._report(information)
            connection = event.assoc if self.commits == "same" else None
            sending = threading.Thread(target=self._send, args=(report, connection))
            self._threads.append(sending)
            sending.start()
        return 0x0000, None

    def _report(self, information: Dataset) -> Dataset:
        report, kept, failed = Dataset(), [], []
        report.TransactionUID = information.TransactionUID
        if self.commits == "wrong":
            report.TransactionUID = "1.2.3.4.5.6.7"
        for item in information.ReferencedSOPSequence:
            if self.keeps(str(item.ReferencedSOPInstanceUID)):
                kept.append(item)
            else:
                item.FailureReason = 0x0112
                failed.append(item)
        report.ReferencedSOPSequence = kept
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _send(self, report: Dataset, connection) -> None:
        event_type = 2 if "FailedSOPSequence" in report else 1
        own = connection is None
        if own:
            connection = self._call_back()
        else:
            self._released.wait(0.2)  # our answer to the N-ACTION goes first
        with suppress(RuntimeError, ValueError):
            answer, _ = connection.send_n_event_report(
                report, event_type, COMMITMENT, COMMITMENT_INSTANCE
            )
            self.report_statuses.append(answer.get("Status", -1))
        if own and connection.is_established:
            connection.release()

    def _call_back(self):
        entity = AE(self.ae_title)
        entity.acse_timeout = entity.dimse_timeout = 10
        entity.add_requested_context(COMMITMENT, ExplicitVRLittleEndian)
        called = entity.associate(
            self.call_back.host,
            self.call_back.port,
            ae_title=self.call_back.ae_title,
            ext_neg=[build_role(COMMITMENT, scu_role=False, scp_role=True)],
        )
        return pausing(called)


@cache
def _report() -> bytes:
    """A report of ours: what stands in for it must pass the gate."""
    images = dicom_objects.dynamic_series()
    mark = dicom_objects.sr_rectangle(images[7])
    with TemporaryDirectory() as folder:
        stored = dicom_objects.store(Path(folder), [*images, mark])
        objects = read_study(stored)
        (choice,) = select(objects, read_rois(objects.documents))
        header = read_header(choice.path)
    return build_sr(pending(choice), header, mark, None, DEVICE).content


def document(kind: str, uid: str, study: str, previous: str | None = None) -> Document:
    """A document as it would be frozen; `previous` is its predecessor."""
    if kind == "SR":
        made = dcmread(BytesIO(_report()))
        made.file_meta = FileMetaDataset()
    else:
        made = Dataset()
        made.SOPClassUID = SC
        made.ImageComments = "x" * 9_000
    made.SOPInstanceUID = uid
    made.StudyInstanceUID = study
    made.SeriesInstanceUID = f"{study}.99"
    made.Modality = "SR" if kind == "SR" else "OT"
    made.PatientName = "Marker^Patient"
    made.PatientID = "MARKER-PID"
    if previous is not None:
        reference, series, item = Dataset(), Dataset(), Dataset()
        reference.ReferencedSOPClassUID = COMPREHENSIVE_3D
        reference.ReferencedSOPInstanceUID = previous
        series.SeriesInstanceUID = made.SeriesInstanceUID
        series.ReferencedSOPSequence = [reference]
        item.StudyInstanceUID = study
        item.ReferencedSeriesSequence = [series]
        made.PredecessorDocumentsSequence = [item]
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dcmwrite(buffer, made, enforce_file_format=True)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    return Document(kind, made.SOPClassUID, SopInstanceUid(uid), digest, content)


@dataclass
class Desk:
    """Results that were recorded, and a clock that the test moves."""

    sessions: Sessions
    spool: Spool
    settings: WorkerSettings
    at: datetime = T0

    @classmethod
    def of(cls, folder: Path, url: str, **settings) -> "Desk":
        read = load(
            WorkerSettings,
            data_dir=folder / "site",
            database_url=url,
            answer_timeout=5,
            commit_wait=0.5,
            **settings,
        )
        read.spool.mkdir(parents=True, exist_ok=True)
        return cls(db.writing(db.connect(url)), Spool(read.spool), read)

    def with_settings(self, **changes) -> "Desk":
        return replace(self, settings=self.settings.model_copy(update=changes))

    @property
    def site(self) -> Site:
        return Site(self.sessions, self.spool, self.settings, lambda: self.at)

    def result(
        self, name: str, *destinations: Destination, study: int = 1, version: int = 1
    ) -> None:
        """Record one version of a case: a report and a capture."""
        uid = StudyUid(f"1.2.3.{study}")
        previous = f"{uid}.7.{version - 1}.1" if version > 1 else None
        documents = [
            document("SR", f"{uid}.7.{version}.1", uid, previous),
            document("SC", f"{uid}.7.{version}.2", uid),
        ]
        frozen = [
            (each, self.spool.write_document(each.sha256, each.content))
            for each in documents
        ]
        with self.sessions.begin() as session:
            record(session, [_image(uid)], QuietPeriods(timedelta(0)), self.at)
            outbox.enqueue(session, uid, name, frozen, destinations, self.at)

    def deliver(self, destination: Destination) -> None:
        deliver(str(destination), self.site)

    def sweep(self) -> None:
        """Do what the sweep and a worker do, when something is due now."""
        with self.sessions() as session:
            due = outbox.due(session, self.at, timedelta(minutes=1), 99)
        for destination in due:
            deliver(destination, self.site)

    def look(self, **narrow):
        with self.sessions() as session:
            found = outbox.deliveries(session, **narrow)
        return sorted(found, key=lambda each: (each.created_at, each.kind != "SR"))


def _image(study: StudyUid) -> ReceivedInstance:
    return ReceivedInstance(
        study_uid=study,
        series_uid=f"{study}.5",
        sop_instance_uid=SopInstanceUid(f"{study}.5.1"),
        sop_class_uid=MR,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        path=Path("instances/aa/bb/1.dcm"),
        size=1,
        sha256="0" * 64,
        patient_key="a" * 64,
        calling_ae="SCANNER",
        received_at=T0,
    )
