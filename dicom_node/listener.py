"""The storage SCP: C-ECHO and C-STORE, no promise before it is kept.

An archive that reports on storage commitment calls here too.

One thread of pynetdicom serves each association. A data set becomes a durable file
and is then answered; its row follows by group commit (`dicom_node.recorder`), except
the first of a study on an association: that row is committed before its Success,
together with "this association carries this study", so that no sweep takes the study
for complete while rows of it are on their way.
"""

import logging
import socket
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final, cast

from pynetdicom import AE, _config, evt
from pynetdicom.association import Association as Connection
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu import P_DATA_TF
from pynetdicom.transport import AssociationSocket

from dicom_node import audit, commitment, contexts, counters, replay, tls, turns
from dicom_node.admission import OTHER
from dicom_node.committer import take_report
from dicom_node.completion import QuietPeriods
from dicom_node.counters import Counted, Counters
from dicom_node.db import Clock, Sessions, now
from dicom_node.draft import Draft
from dicom_node.intake import (
    OUT_OF_RESOURCES,
    SUCCESS,
    Intake,
)
from dicom_node.ledger import Association, Conflict
from dicom_node.native_store import (
    MARGIN_BYTES,
    Limits,
    Reader,
    calling_ae,
    take_over,
)
from dicom_node.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    FileMeta,
)
from dicom_node.reception import ACSE_TIMEOUT_S, FAULT, Call, Reception, Rejection
from dicom_node.recorder import Carried, Closed, Recorder
from dicom_node.refusals import Refusals
from dicom_node.server import NETWORK_TIMEOUT_S, Door, Server
from dicom_node.settings import NodeSettings, patient_secret
from dicom_node.shared_spool import spool_of
from dicom_node.storage import Refusal, refusal, request_of
from dicom_node.study import ReceivedInstance, StudyUid
from dicom_node.turns import INVALID_PDU
from dicom_node.wire import IS_LAST

log = logging.getLogger(__name__)

DIMSE_TIMEOUT_S: Final = 120
DRAIN_TIMEOUT_S: Final = 5.0
FLUSH_TIMEOUT_S: Final = 5.0

UNLIMITED: Final = 2**31
"""For pynetdicom, which counts connections that ask for nothing as associations."""

NO_SUCH_ACTION: Final = 0x0123

Kept = ReceivedInstance | Conflict

# pynetdicom logs data sets and PDUs unless told not to; both carry patients' data.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"


@dataclass(slots=True)
class Stores:
    """What one association has stored so far.

    The lock is held during a store and while closing, so that nothing is entered
    for an association after its end. `carried` are the studies that the ledger knows
    it carries, `stored` is what it stored of each; `entered` says that it is in the
    ledger, or waits to get there.
    """

    association: Association
    lock: threading.Lock = field(default_factory=threading.Lock)
    carried: set[StudyUid] = field(default_factory=set)
    stored: defaultdict[StudyUid, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    entered: bool = False
    reader: Reader | None = None
    kept: int = 0
    refused: int = 0
    closed: bool = False


class Inflow:
    """Counts the message that comes in over one association, and ends a long one.

    pynetdicom gathers a message in memory and asks nobody before it is complete.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._received = 0
        self._ended = False

    def count(self, event: Event) -> None:
        """Count a PDU that came, in the thread that reads them."""
        if not isinstance(event.pdu, P_DATA_TF):
            return
        for item in event.pdu.presentation_data_value_items:
            fragment = item.presentation_data_value or b""
            self._received += len(fragment)
            if self._received > self._max_bytes and not self._ended:
                self._end(event.assoc)
            if fragment[:1] and fragment[0] & IS_LAST:
                self._received = 0
        if self._ended:
            event.pdu.presentation_data_value_items.clear()

    def _end(self, connection: Connection) -> None:
        self._ended = True
        extra = {"calling_ae": calling_ae(connection), "max_bytes": self._max_bytes}
        log.warning("association aborted: the message is too long", extra=extra)
        connection.dul.event_queue.put(INVALID_PDU)  # it answers with A-ABORT


class Listener:
    """One DICOM port with what lies behind it, from `start` to `stop`."""

    def __init__(
        self, settings: NodeSettings, sessions: Sessions, clock: Clock = now
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._clock = clock
        self._quiet = QuietPeriods(settings.quiet_period, settings.quiet_periods)
        self._reception = Reception(settings)
        self._refusals: Refusals | None = None
        self._recorder = Recorder(sessions, self._quiet, clock)
        self._counters = Counters(sessions)
        self._stores: dict[Connection, Stores] = {}
        self._draining = False
        self._plain: Server | None = None
        self._secured: Server | None = None
        self._intake: Intake | None = None
        self._held = ExitStack()

    @property
    def port(self) -> int:
        """The TCP port that is listened on; with port 0 the one that was free."""
        if self._plain is None:
            raise RuntimeError("the listener is not started")
        return self._plain.port

    @property
    def tls_port(self) -> int | None:
        """The TCP port for calls by TLS; None without TLS."""
        return None if self._secured is None else self._secured.port

    @property
    def name(self) -> str:
        """Who this listener is in the ledger: the next one of this name is its heir."""
        settings = self._settings
        own = f"/{settings.listener_name}" if settings.listener_name else ""
        return f"{settings.aet}@{socket.gethostname()}:{settings.port}{own}"

    def start(self) -> None:
        """Make ledger and spool agree, then listen.

        Raises:
            OSError: A port cannot be had, a listener of this name runs, or the data
                folder cannot be written.
            SettingsError: The TLS files cannot be used.
            SQLAlchemyError: The database does not answer.
            SpoolFullError: The volume fails.
        """
        settings = self._settings
        secured = (
            tls.Port(settings.tls, mutual=settings.tls_mutual)
            if settings.takes_tls
            else None
        )
        settings.spool.mkdir(parents=True, exist_ok=True)
        self._intake = Intake(
            spool_of(settings),
            patient_secret(settings),
            settings.min_free_bytes,
            settings.max_instance_bytes,
            settings.duplicate,
        )
        if settings.port:
            self._held.enter_context(_sole_of(self.name))
        is_alone = settings.heir_of_all and not settings.listener_name
        dead = None if is_alone else self.name
        replay.recover(self._intake, self._sessions, self._quiet, dead, self._clock)
        self._refusals = Refusals(self._sessions, audit.trail_of(settings), self.name)
        self._recorder.start()
        self._counters.start()
        self._listen(secured)
        extra = {"aet": settings.aet, "port": self.port, "tls_port": self.tls_port}
        log.info("listening", extra=extra)

    def stop(self) -> None:
        """Take no more associations, finish running stores, commit their rows."""
        if self._plain is None:
            return
        self._draining = True
        for server in (self._plain, self._secured):
            if server is not None:
                server.shutdown()
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        for connection, stores in list(self._stores.items()):
            if stores.lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                stores.lock.release()  # the store that was running is answered
            ending = threading.Thread(target=connection.abort, daemon=True)
            ending.start()
            ending.join(max(0.0, deadline - time.monotonic()))
            self._close(connection)
        if not self._recorder.stop(FLUSH_TIMEOUT_S):
            log.error("rows are missing; the next start rebuilds them from files")
        self._counters.stop(FLUSH_TIMEOUT_S)
        if self._refusals is not None:
            self._refusals.flush(self._clock())
        self._held.close()
        log.info("stopped")

    def _listen(self, secured: tls.Port | None) -> None:
        """Open the plain port, and that for TLS."""
        settings = self._settings
        entity = AE(settings.aet)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.require_called_aet = True
        entity.maximum_associations = UNLIMITED
        entity.maximum_pdu_size = settings.max_pdu
        entity.acse_timeout = ACSE_TIMEOUT_S
        entity.dimse_timeout = DIMSE_TIMEOUT_S
        entity.network_timeout = NETWORK_TIMEOUT_S
        entity.supported_contexts = contexts.accepted()
        handlers: list[EventHandlerType] = [
            (evt.EVT_CONN_OPEN, self._on_connection),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_C_STORE, self.handle_store),
            (evt.EVT_N_EVENT_REPORT, self.handle_report),
            (evt.EVT_N_ACTION, _refuse_action),
            (evt.EVT_REJECTED, self._on_rejection),
            (evt.EVT_RELEASED, self._on_end),
            (evt.EVT_ABORTED, self._on_abort),
            (evt.EVT_CONN_CLOSE, self._on_abort),
        ]
        reception = self._reception
        shares_port = bool(settings.listener_name)
        door = Door(reception.silent, reception.rate, self._hung_up, shares_port)
        plain: EventHandlerType = (evt.EVT_REQUESTED, self._on_request, [False])
        at = (settings.host, settings.port)
        self._plain = Server(entity, at, [*handlers, plain], door)
        if secured is not None:
            by_tls: EventHandlerType = (evt.EVT_REQUESTED, self._on_request, [True])
            at = (settings.host, settings.tls_port)
            self._secured = Server(entity, at, [*handlers, by_tls], door, secured)
            self._secured.start()
        self._plain.start()

    def _on_connection(self, event: Event) -> None:
        """Bound what comes; let the process end although a caller says nothing."""
        settings = self._settings
        event.assoc.daemon = True
        event.assoc.dul.daemon = True
        turns.keep(event.assoc, self._ended)
        _bound_pdus(event.assoc, settings.max_pdu + MARGIN_BYTES)
        inflow = Inflow(settings.max_instance_bytes + MARGIN_BYTES)
        event.assoc.bind(evt.EVT_PDU_RECV, inflow.count)

    def _on_request(self, event: Event, secured: bool) -> None:  # noqa: FBT001 - pynetdicom passes by position
        """Reject a caller that is not admitted, before anything is negotiated."""
        call = Call.of(event.assoc, secured=secured)
        self._reception.heard(event.assoc)
        rejection: Rejection | None = FAULT
        try:
            rejection = self._reception.rejection(event.assoc, call)
        finally:  # pynetdicom goes on after an exception here: never admit by one
            if rejection is not None:
                self._reject(event.assoc, call, rejection)

    def _reject(self, connection: Connection, call: Call, rejection: Rejection) -> None:
        self._count(connection, rejection.outcome)
        extra = {"calling_ae": call.calling_ae, "address": call.address}
        log.warning("association rejected: %s", rejection.why, extra=extra)
        connection.acse.send_reject(
            rejection.result, rejection.source, rejection.reason
        )
        connection.kill()  # returns when the rejection is out
        self._note(call.calling_ae, call.address, rejection.why)

    def _hung_up(self, address: str, why: str) -> None:
        """Note a connection that was closed before anybody asked for anything."""
        self._counters.add(Counted(counters.ASSOCIATIONS, OTHER, counters.HUNG_UP))
        log.warning("connection refused: %s", why, extra={"address": address})
        self._note("", address, why)

    def _note(self, calling_ae: str, address: str, why: str) -> None:
        if self._refusals is not None:
            self._refusals.note(calling_ae, address, self._clock(), why)

    def _on_rejection(self, event: Event) -> None:
        self._count(event.assoc, counters.NOT_NEGOTIATED)

    def _on_abort(self, event: Event) -> None:
        """Count an end without a release; the closed connection may be told first."""
        if event.assoc in self._stores and not event.assoc.is_released:
            self._count(event.assoc, counters.ABORTED)
        self._ended(event.assoc)

    def _count(self, connection: Connection, outcome: str) -> None:
        """Count what became of an association."""
        caller = self._reception.admission.known(calling_ae(connection))
        self._counters.add(Counted(counters.ASSOCIATIONS, caller, outcome))

    def _on_established(self, event: Event) -> None:
        self._count(event.assoc, counters.ACCEPTED)
        requestor = event.assoc.requestor
        stores = Stores(
            Association(
                association_id=str(uuid.uuid4()),
                listener=self.name,
                calling_ae=calling_ae(event.assoc),
                peer_address=str(requestor.address),
            )
        )
        self._stores[event.assoc] = stores
        if self._settings.native_store and not self._files.spool.is_shared:
            settings = self._settings
            limits = Limits(settings.max_pdu, settings.max_instance_bytes)
            stores.reader = take_over(
                event.assoc, self._files, self.finish_store, limits
            )

    def _on_end(self, event: Event) -> None:
        self._ended(event.assoc)

    def _ended(self, connection: Connection) -> None:
        """Forget an association and free its place; idempotent."""
        self._close(connection)
        self._reception.leave(connection)

    def _close(self, connection: Connection) -> None:
        """Enter the end of an association after everything that it stored."""
        stores = self._stores.pop(connection, None)
        if stores is None:
            return
        if stores.reader is not None:
            stores.reader.end()
        with stores.lock:
            stores.closed = True
        if stores.entered:
            closed = Closed(stores.association.association_id, dict(stores.stored))
            self._recorder.put(closed)
        if stores.kept or stores.refused:
            extra = {
                "association": stores.association.association_id,
                "calling_ae": stores.association.calling_ae,
                "kept": stores.kept,
                "refused": stores.refused,
            }
            log.info("association ended", extra=extra)

    def handle_store(self, event: Event) -> int:
        """Answer a C-STORE request (PS3.4 annex B).

        Returns:
            * 0x0000 Success: a durable file holds the object, or did before. Another
              object under a known UID is kept in quarantine, and its study is held,
              unless the site ignores or rejects such.
            * 0x0110 Processing failure: a fault of ours.
            * 0x0111 Duplicate SOP instance: another object is there, and such are
              rejected.
            * 0x0122 SOP class not supported: not that of the presentation context.
            * 0xA700 Out of resources: disk or database; nothing new is kept.
            * 0xA900 Data set does not match SOP class: its UIDs are not the request's.
            * 0xC000 Cannot understand: it does not parse, or lacks a mandatory UID.
            * 0xC001, 0xC002 Cannot understand: an SOP UID, or a study or series UID,
              is not a UID.
        """
        dataset = cast("C_STORE", event.request).DataSet
        size = 0 if dataset is None else dataset.getbuffer().nbytes

        def keep() -> Kept:
            return self._files.keep(request_of(event, calling_ae(event.assoc)))

        return self._take(event.assoc, keep, size)

    def finish_store(
        self, connection: Connection, meta: FileMeta, written: Draft | Exception
    ) -> int:
        """Answer a C-STORE request that was read natively, as `handle_store` does.

        Args:
            connection: Whose it is.
            meta: What it says of its data set.
            written: The file that the data set is in, or why there is none.
        """

        def keep() -> Kept:
            if isinstance(written, Exception):
                raise written
            return self._files.keep_draft(meta, written)

        size = 0 if isinstance(written, Exception) else written.content_size
        return self._take(connection, keep, size)

    @property
    def _files(self) -> Intake:
        if self._intake is None:
            raise RuntimeError("the listener is not started")
        return self._intake

    def _take(self, connection: Connection, keep: Callable[[], Kept], size: int) -> int:
        """Return the status of an object; `keep` makes it durable, and may again."""
        stores = self._stores.get(connection)
        if stores is None or self._draining:
            return OUT_OF_RESOURCES
        with stores.lock:
            status = OUT_OF_RESOURCES if stores.closed else self._answer(keep, stores)
            stores.kept += status == SUCCESS
            stores.refused += status != SUCCESS
        self._count_store(stores.association.calling_ae, status, size)
        return status

    def _count_store(self, calling_ae: str, status: int, size: int) -> None:
        caller = self._reception.admission.known(calling_ae)
        self._counters.add(Counted(counters.STORES, caller, f"0x{status:04X}"))
        if status == SUCCESS:
            self._counters.add(Counted(counters.STORED_BYTES, caller), size)

    def handle_report(self, event: Event) -> tuple[int, None]:
        """Answer a report on storage commitment: see `committer.take_report`."""

        def enter(report: commitment.Report) -> bool:
            with self._sessions.begin() as session:
                return commitment.reported(session, report, self._clock())

        return take_report(event, enter)[0], None

    def _answer(self, keep: Callable[[], Kept], stores: Stores) -> int:
        try:
            self._store(keep, stores)
        except Exception as error:  # noqa: BLE001 - pynetdicom would answer 0xC211, never to be retried
            return _refuse(stores, refusal(error))
        return SUCCESS

    def _store(self, keep: Callable[[], Kept], stores: Stores) -> None:
        self._recorder.require_ready()
        kept = keep()
        instance = kept.instance if isinstance(kept, Conflict) else kept
        if instance.study_uid in stores.carried and not self._files.spool.is_shared:
            self._recorder.put(kept)  # its file is here: the next start finds it
            stores.stored[instance.study_uid][instance.sop_class_uid] += 1
            return
        carried = Carried(stores.association, instance.study_uid)
        stores.entered = True
        self._recorder.commit(kept, carried)
        stores.carried.add(instance.study_uid)
        stores.stored[instance.study_uid][instance.sop_class_uid] += 1
        if not self._files.spool.written_at(instance.path):
            keep()  # a purge took the file that it was found to be


def _sole_of(name: str) -> socket.socket:
    """Take a listener's name on this host, for as long as the socket is open.

    An heir ends what the earlier one of its name left open, so that must be dead. The
    kernel knows: an abstract address (unix(7)) goes with the process that holds it.

    Raises:
        OSError: A listener of this name runs.
    """
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0sentinode-listener/{name}")
    except OSError:
        held.close()
        raise
    return held


def _refuse_action(event: Event) -> tuple[int, None]:
    """Refuse to commit: a worker is no archive, the sender must keep its objects."""
    extra = {"calling_ae": calling_ae(event.assoc)}
    log.warning("request for storage commitment refused", extra=extra)
    return NO_SUCH_ACTION, None


def _bound_pdus(connection: Connection, max_bytes: int) -> None:
    """Hang up on a PDU that is far longer than negotiated, before it is read."""
    transport = cast("AssociationSocket", connection.dul.socket)
    receive = transport.recv

    def bounded(nr_bytes: int) -> bytearray:
        if nr_bytes > max_bytes:
            log.warning("connection closed: the PDU is too long")
            raise ConnectionError("the PDU is too long")
        return receive(nr_bytes)

    transport.recv = bounded  # type: ignore[method-assign] # no event comes that early


def _refuse(stores: Stores, refused: Refusal) -> int:
    extra = {
        "association": stores.association.association_id,
        "calling_ae": stores.association.calling_ae,
        "status": f"0x{refused.status:04X}",
        "why": refused.why,
    }
    log.warning("store refused", extra=extra)
    return refused.status
