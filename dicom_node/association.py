"""Associations that we open: how long to wait, who we say we are, why it failed."""

import socket
import threading
from collections.abc import Sequence
from typing import Final

import pynetdicom
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from dicom_node import tls
from dicom_node.errors import PeerRejectedError, PeerUnavailableError, SettingsError
from dicom_node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.study import Peer
from dicom_node.tls import Caller, Calling, ClientContext

CONNECT_TIMEOUT_S: Final = 10.0
MAX_PDU: Final = 262_144
SUPPORTED: Final = "3.0."
"""The versions of pynetdicom whose inner parts are what we take them for."""

# pynetdicom logs data sets and PDUs unless told not to; both carry patients' data.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"


def is_supported() -> bool:
    """Say whether parts of this pynetdicom that are no interface may be stood on."""
    return pynetdicom.__version__.startswith(SUPPORTED)


class _Checkpoint(threading.Event):
    """Where pynetdicom's reactor is made to wait; `occupied` while it does."""

    def __init__(self) -> None:
        super().__init__()
        self._door = threading.Lock()
        self.occupied = False
        self.set()

    def set(self) -> None:
        """Let the reactor go on."""
        with self._door:
            self.occupied = False
            super().set()

    def clear(self) -> None:
        """Stop the reactor when it comes here next."""
        with self._door:
            super().clear()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the reactor may go on; that it waits is never said too early."""
        with self._door:
            if self.is_set():
                return True
            self.occupied = True
        return super().wait(timeout)


class _Paused(Association):
    """An association whose reactor is paused when it says so.

    pynetdicom's says it a moment before it is. On a busy host it may still take a
    response off the queue then, which is lost: a match of a query, or a status.
    """

    _reactor_checkpoint: _Checkpoint

    @property
    def _is_paused(self) -> bool:
        """Say whether it is out of the way: it waits, has ended, or asks itself."""
        if self._reactor_checkpoint.occupied or self._kill or not self.is_alive():
            return True
        return threading.current_thread() is self

    @_is_paused.setter
    def _is_paused(self, value: bool) -> None:
        del value


def pausing(association: Association) -> Association:
    """Let an association that we opened lose no response; see `_Paused`."""
    association._reactor_checkpoint = _Checkpoint()  # noqa: SLF001 - no other way in
    association.__class__ = _Paused
    return association


def associate(  # noqa: PLR0913, PLR0917 - all that an association is asked for
    peer: Peer,
    calling: Calling,
    contexts: Sequence[PresentationContext],
    timeout: float,
    handlers: Sequence[EventHandlerType] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Association:
    """Open an association, by TLS where the peer's address says so.

    Raises:
        PeerUnavailableError: The peer is not there, or rejected the association, or one
            of both does not trust the other's certificate.
        PeerRejectedError: The peer accepted none of the presentation contexts.
    """
    caller = calling if isinstance(calling, Caller) else Caller(calling)
    context = _secured(peer, caller)
    entity = AE(caller.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = min(CONNECT_TIMEOUT_S, timeout)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=list(contexts),
            ae_title=peer.ae_title,
            max_pdu=MAX_PDU,
            evt_handlers=[(evt.EVT_CONN_OPEN, _send_at_once), *handlers],
            ext_neg=list(roles),
            tls_args=None if context is None else (context, peer.host),
        )
    except (OSError, RuntimeError) as error:  # its name does not resolve, for one
        raise PeerUnavailableError(f"{peer} cannot be reached") from error
    if association.is_established:
        return pausing(association)
    if context is not None and context.fault is not None:
        raise PeerUnavailableError(f"{peer}: {context.fault}")
    if association.is_rejected:
        raise PeerUnavailableError(
            f"{peer} rejected the association{_reason(association)}"
        )
    if association.rejected_contexts:
        raise PeerRejectedError(f"{peer} accepted no presentation context")
    raise PeerUnavailableError(f"no association with {peer}")


def _secured(peer: Peer, caller: Caller) -> ClientContext | None:
    if not peer.tls:
        return None
    try:
        return tls.client_context(caller.files, itself=caller.itself)
    except SettingsError as error:  # a person mends it, and what waits goes on
        raise PeerUnavailableError(f"{peer}: {error}") from error


def end(association: Association) -> None:
    """Release an association that still stands."""
    if association.is_established:
        association.release()


def status_of(answer: Dataset) -> int | None:
    """Return the status of a response, None when none came."""
    status = answer.get("Status")
    return None if status is None else int(status)


def _reason(association: Association) -> str:
    """Say why the peer rejected, as far as it said; it must never be in the way."""
    answer = association.acceptor.primitive
    if not isinstance(answer, A_ASSOCIATE):
        return ""
    try:
        return f": {answer.reason_str.lower()}"
    except (ValueError, KeyError):
        return ""


def _send_at_once(event: Event) -> None:
    """Turn Nagle's algorithm off: it costs 40 ms for each small object."""
    wrapper = event.assoc.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        wrapper.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
