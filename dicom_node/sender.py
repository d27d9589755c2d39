"""The storage SCU: send files as they are, and say of each how it went.

Encoded bytes go out untouched while the peer accepts their transfer syntax. Only an
uncompressed file whose peer takes the other uncompressed syntax alone is re-encoded.
"""

import socket
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.codestream import UNCOMPRESSED
from dicom_node.contexts import VERIFICATION
from dicom_node.errors import (
    PeerRejectedError,
    PeerUnavailableError,
    PermanentError,
    TransientError,
    UnreadableObjectError,
)
from dicom_node.part10 import (
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION_NAME,
    FileMeta,
    read_meta,
)
from dicom_node.study import Peer, SopInstanceUid

MAX_CONTEXTS: Final = 128
CONNECT_TIMEOUT_S: Final = 10.0
TIMEOUT_S: Final = 60.0
MAX_PDU: Final = 262_144

WARNING_CLASS: Final = 0xB000
OUT_OF_RESOURCES_CLASS: Final = 0xA700
OTHER_WARNINGS: Final = frozenset({0x0001, 0x0107, 0x0116})
"""Warnings outside 0xBxxx (PS3.7 annex C)."""

# Send the encoded data set of a file as it is, in fragments read from disk.
_config.STORE_SEND_CHUNKED_DATASET = True
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"


@dataclass(frozen=True, slots=True)
class SendOutcome:
    """How one file went: `error` is None when the peer has it.

    `status` is the DIMSE status, None when no answer came; `sop_instance_uid` is
    None when the file is not DICOM.
    """

    path: Path
    sop_instance_uid: SopInstanceUid | None
    status: int | None
    error: TransientError | PermanentError | None


@dataclass(frozen=True, slots=True)
class Sendable:
    """A file and what its file meta information says of it."""

    path: Path
    meta: FileMeta

    @property
    def syntaxes(self) -> tuple[str, ...]:
        """Transfer syntaxes that it can go out in, its own first."""
        own = self.meta.transfer_syntax_uid
        if own not in UNCOMPRESSED:
            return (own,)
        return (own, *(syntax for syntax in UNCOMPRESSED if syntax != own))

    @property
    def contexts(self) -> frozenset[tuple[str, str]]:
        """(SOP class, transfer syntax) pairs to propose for it."""
        return frozenset((self.meta.sop_class_uid, each) for each in self.syntaxes)


def echo(peer: Peer, calling_aet: str, timeout: float = CONNECT_TIMEOUT_S) -> float:
    """Verify that a peer answers (C-ECHO); return the round trip in milliseconds.

    Raises:
        PeerUnavailableError: No association, or no answer in time.
        PeerRejectedError: The peer answered with another status than Success.
    """
    context = build_context(VERIFICATION, list(UNCOMPRESSED))
    association = _associate(peer, calling_aet, [context], timeout)
    try:
        started = time.perf_counter()
        status = _status(association.send_c_echo())
        elapsed = (time.perf_counter() - started) * 1000
    except (RuntimeError, ValueError) as error:
        raise PeerUnavailableError(f"{peer} does not take C-ECHO") from error
    finally:
        _end(association)
    if status is None:
        raise PeerUnavailableError(f"{peer} did not answer the C-ECHO")
    if status != 0:
        raise PeerRejectedError(f"{peer} answered 0x{status:04X}", status)
    return elapsed


def send(
    peer: Peer, calling_aet: str, files: Iterable[Path], timeout: float = TIMEOUT_S
) -> Iterator[SendOutcome]:
    """Send files over one association, in their order.

    More than 128 presentation contexts take another association each. A file that
    is refused does not stop those after it; when the association ends, every file
    that is left gets a transient error.

    Args:
        peer: Where to.
        calling_aet: Our AE title.
        files: DICOM Part 10 files, sent under the SOP UIDs of their file meta.
        timeout: Seconds to wait for each answer.

    Yields:
        One outcome for each file, as it is known; nothing is raised for a peer.
    """
    sendable: list[Sendable] = []
    for path in files:
        try:
            sendable.append(read_sendable(path))
        except UnreadableObjectError as error:
            yield SendOutcome(path, None, None, error)
    while sendable:
        count = _batch_size(sendable)
        yield from _send_batch(peer, calling_aet, sendable[:count], timeout)
        sendable = sendable[count:]


def read_sendable(path: Path) -> Sendable:
    """Read what is needed to propose a file to a peer.

    Raises:
        UnreadableObjectError: It is not a readable DICOM Part 10 file.
    """
    try:
        with path.open("rb") as file:
            return Sendable(path, read_meta(file))
    except OSError as error:
        raise UnreadableObjectError(f"cannot be read: {error.strerror}") from error


def _batch_size(sendable: Sequence[Sendable]) -> int:
    """Return how many files one association's presentation contexts suffice for."""
    contexts: set[tuple[str, str]] = set()
    for count, each in enumerate(sendable):
        contexts |= each.contexts
        if len(contexts) > MAX_CONTEXTS:
            return count
    return len(sendable)


def _send_batch(
    peer: Peer, calling_aet: str, batch: Sequence[Sendable], timeout: float
) -> Iterator[SendOutcome]:
    pairs = dict.fromkeys(
        (each.meta.sop_class_uid, syntax) for each in batch for syntax in each.syntaxes
    )
    contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
    try:
        association = _associate(peer, calling_aet, contexts, timeout)
    except (PeerUnavailableError, PeerRejectedError) as error:
        for each in batch:
            uid = SopInstanceUid(each.meta.sop_instance_uid)
            yield SendOutcome(each.path, uid, None, error)
        return
    try:
        for number, each in enumerate(batch):
            yield _send_one(association, peer, each, number)
    finally:
        _end(association)


def _send_one(
    association: Association, peer: Peer, file: Sendable, number: int
) -> SendOutcome:
    uid = SopInstanceUid(file.meta.sop_instance_uid)
    status = None
    error: TransientError | PermanentError | None
    try:
        status = _transmit(association, peer, file, number)
        error = _judge(peer, status)
    except (TransientError, PermanentError) as raised:
        error = raised
    return SendOutcome(file.path, uid, status, error)


def _transmit(
    association: Association, peer: Peer, file: Sendable, number: int
) -> int | None:
    """Send one file and return the status, None when no answer came.

    Raises:
        PeerUnavailableError: The association is gone.
        PeerRejectedError: The peer did not accept the file's presentation context.
        UnreadableObjectError: The file cannot be read or encoded.
    """
    if not association.is_established:
        raise PeerUnavailableError(f"{peer} ended the association")
    syntax = _accepted_syntax(association, file)
    if syntax is None:
        text = f"{peer} takes no {file.meta.sop_class_uid} in this transfer syntax"
        raise PeerRejectedError(text)
    try:
        content = file.path if syntax == file.meta.transfer_syntax_uid else _read(file)
        answer = association.send_c_store(content, msg_id=number % 0xFFFF + 1)
    except (AttributeError, ValueError, NotImplementedError, FileNotFoundError):
        text = f"cannot be encoded for {peer}"
        raise UnreadableObjectError(text) from None  # the cause may quote values
    except (OSError, RuntimeError) as error:
        raise PeerUnavailableError(f"{peer} went away") from error
    if _status(answer) is None:
        # It may look established for a moment, and the next file would wait in vain.
        association.abort()
    return _status(answer)


def _accepted_syntax(association: Association, file: Sendable) -> str | None:
    """Return the first syntax of the file that the peer accepted for its class."""
    accepted = {
        (str(context.abstract_syntax), str(context.transfer_syntax[0]))
        for context in association.accepted_contexts
    }
    for syntax in file.syntaxes:
        if (file.meta.sop_class_uid, syntax) in accepted:
            return syntax
    return None


def _read(file: Sendable) -> Dataset:
    """Decode a file that must be re-encoded; warnings may quote its values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(file.path)


def _judge(peer: Peer, status: int | None) -> TransientError | PermanentError | None:
    """Turn the status of a C-STORE response into our two kinds of error."""
    if status is None:
        return PeerUnavailableError(f"{peer} did not answer")
    if status == 0 or status & 0xF000 == WARNING_CLASS or status in OTHER_WARNINGS:
        return None
    text = f"{peer} answered 0x{status:04X}"
    if status & 0xFF00 == OUT_OF_RESOURCES_CLASS:
        return PeerUnavailableError(text, status)
    return PeerRejectedError(text, status)


def _associate(
    peer: Peer, calling_aet: str, contexts: list[PresentationContext], timeout: float
) -> Association:
    """Open an association.

    Raises:
        PeerUnavailableError: The peer is not there, or rejected the association.
        PeerRejectedError: The peer accepted none of the presentation contexts.
    """
    entity = AE(calling_aet)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = min(CONNECT_TIMEOUT_S, timeout)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = timeout
    handlers: list[EventHandlerType] = [(evt.EVT_CONN_OPEN, _send_at_once)]
    try:
        association = entity.associate(
            peer.host,
            peer.port,
            contexts=contexts,
            ae_title=peer.ae_title,
            max_pdu=MAX_PDU,
            evt_handlers=handlers,
        )
    except (OSError, RuntimeError) as error:  # its name does not resolve, for one
        raise PeerUnavailableError(f"{peer} cannot be reached") from error
    if association.is_established:
        return association
    if association.is_rejected:
        raise PeerUnavailableError(f"{peer} rejected the association")
    if association.rejected_contexts:
        raise PeerRejectedError(f"{peer} accepted no presentation context")
    raise PeerUnavailableError(f"no association with {peer}")


def _send_at_once(event: Event) -> None:
    """Turn Nagle's algorithm off: it costs 40 ms for each small object."""
    wrapper = event.assoc.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        wrapper.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _end(association: Association) -> None:
    if association.is_established:
        association.release()


def _status(answer: Dataset) -> int | None:
    status = answer.get("Status")
    return None if status is None else int(status)
