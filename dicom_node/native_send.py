"""C-STORE without pynetdicom's queues, the other way: from the file to the socket.

pynetdicom sends a data set through a queue of objects that a thread looks at each
millisecond, and reads the answer in the same way. Here the caller's thread writes the
request and the bytes of the file to the socket, and reads the status, while pynetdicom
keeps away from it. Negotiation and release stay its own.

It stands on parts of pynetdicom 3.0 that are no interface. With a version that it was
not proven on pynetdicom sends alone.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final, cast

from pynetdicom.association import Association

from dicom_node.association import is_supported
from dicom_node.errors import UnreadableObjectError
from dicom_node.part10 import read_meta
from dicom_node.wire import (
    CONTEXT_AND_CONTROL,
    FRAGMENT_HEADER,
    IS_COMMAND,
    IS_LAST,
    LENGTH,
    P_DATA_TF,
    PDU_HEADER,
    StoreCommand,
    read_store_answer,
    store_request,
)

CHUNK: Final = 2**18
"""How many bytes go out by one call; no PDU is longer."""

HEADS: Final = PDU_HEADER.size + FRAGMENT_HEADER.size
MAX_REQUEST: Final = 1024
MIN_PDU: Final = 1024
MAX_ANSWER: Final = 65_536
LOOK_S: Final = 0.1
"""How soon it is noticed that the thread which is to keep away is no more."""


class NoAnswerError(ConnectionError):
    """What came is no answer to the request, or the association has ended."""


class Line:
    """An established association whose socket is ours, from `store` to `give_back`."""

    def __init__(
        self, association: Association, sock: socket.socket, timeout: float
    ) -> None:
        self._association = association
        self._timeout = timeout
        self._pdu = min(association.acceptor.maximum_length or CHUNK, CHUNK)
        self._buffer = bytearray(MAX_REQUEST + HEADS + CHUNK)
        self._socket = sock
        self._patience = self._socket.gettimeout()
        self._is_ours = False

    def _take(self) -> None:
        """Keep pynetdicom's threads away from the socket.

        Raises:
            NoAnswerError: The association has ended meanwhile.
        """
        if self._is_ours:
            return
        self._is_ours = True
        self._association._reactor_checkpoint.clear()  # noqa: SLF001 - as `send_c_store` does
        away = threading.Event()

        def keep_away() -> bool:
            away.set()
            return False

        # Its thread may be about to read when it is told; the next round tells us.
        self._association.dul._is_transport_event = keep_away  # type: ignore[method-assign] # noqa: SLF001
        until = time.monotonic() + self._timeout
        while self._association.is_established and not away.wait(LOOK_S):
            if time.monotonic() > until:
                break
        if not away.is_set() or not self._association.is_established:
            raise NoAnswerError("the association has ended")
        self._socket.settimeout(self._timeout)

    def give_back(self) -> None:
        """Let pynetdicom read and time the connection again, as for its release."""
        if not self._is_ours:
            return
        self._is_ours = False
        dul = self._association.dul
        dul._idle_timer.restart()  # noqa: SLF001 - it did not see what went on
        with suppress(OSError):  # pynetdicom has closed it
            self._socket.settimeout(self._patience)
        vars(dul).pop("_is_transport_event", None)
        self._association._reactor_checkpoint.set()  # noqa: SLF001

    def store(self, path: Path, context_id: int, command: StoreCommand) -> int | None:
        """Send the data set of a Part 10 file as it is; return the peer's status.

        None when no answer came, or none to this message: the association is aborted.

        Raises:
            UnreadableObjectError: The file cannot be read. If it ends or fails while it
                is sent, the association is aborted.
        """
        request = store_request(context_id, command)
        with _readable():
            file = path.open("rb", buffering=0)
        with file:
            with _readable():
                read_meta(file)
                left = os.fstat(file.fileno()).st_size - file.tell()
            try:
                self._take()
                self._transmit(file, left, context_id, request)
                return self._answer(context_id, command.message_id)
            except OSError:
                self._abort()
                return None
            except UnreadableObjectError:
                self._abort()
                raise

    def _abort(self) -> None:
        self.give_back()
        self._association.abort()

    def _transmit(
        self, file: BinaryIO, left: int, context_id: int, head: bytes
    ) -> None:
        """Send a request with the data set after it, in as few calls as it takes."""
        view = memoryview(self._buffer)
        view[: len(head)] = head
        filled = len(head)
        while True:
            size = min(left, self._pdu - FRAGMENT_HEADER.size)
            if filled + HEADS + size > len(view):
                self._send(view[:filled])
                filled = 0
            left -= size
            PDU_HEADER.pack_into(view, filled, P_DATA_TF, size + FRAGMENT_HEADER.size)
            FRAGMENT_HEADER.pack_into(
                view,
                filled + PDU_HEADER.size,
                size + CONTEXT_AND_CONTROL,
                context_id,
                0 if left else IS_LAST,
            )
            filled += HEADS
            _read_into(file, view[filled : filled + size])
            filled += size
            if not left:
                self._send(view[:filled])
                return

    def _send(self, part: memoryview) -> None:
        self._socket.sendall(part)

    def _answer(self, context_id: int, message_id: int) -> int:
        """Read the response to a message."""
        until = time.monotonic() + self._timeout
        command, is_complete = b"", False
        while not is_complete:
            kind, length = PDU_HEADER.unpack(self._receive(PDU_HEADER.size, until))
            if kind != P_DATA_TF or length + len(command) > MAX_ANSWER:
                raise NoAnswerError("the association was ended, or no answer came")
            rest = self._receive(length, until)
            while rest and not is_complete:
                if len(rest) < FRAGMENT_HEADER.size:
                    raise NoAnswerError("a fragment is cut short")
                size, context, control = FRAGMENT_HEADER.unpack_from(rest)
                fragment = rest[FRAGMENT_HEADER.size : LENGTH + size]
                is_whole = CONTEXT_AND_CONTROL <= size <= len(rest) - LENGTH
                if not is_whole or context != context_id or not control & IS_COMMAND:
                    raise NoAnswerError("a fragment is not of the answer")
                command += fragment
                rest = rest[LENGTH + size :]
                is_complete = bool(control & IS_LAST)
            if rest:
                raise NoAnswerError("more came than an answer")
        status = read_store_answer(command, message_id)
        if status is None:
            raise NoAnswerError("what came is not the answer to the message")
        return status

    def _receive(self, size: int, until: float) -> bytes:
        """Read so many bytes; whoever sends them one by one is not waited for."""
        taken = bytearray(size)
        view = memoryview(taken)
        while view:
            count = self._socket.recv_into(view)
            if not count or time.monotonic() > until:
                raise NoAnswerError("the connection closed before the answer was here")
            view = view[count:]
        return bytes(taken)


def take_over(association: Association, timeout: float) -> Line | None:
    """Return what writes to an association; None when pynetdicom must do so alone.

    Args:
        association: Established, by `association.associate`.
        timeout: Seconds to wait for the peer to take a part, and for each answer.
    """
    limit = association.acceptor.maximum_length
    transport = association.dul.socket
    sock = None if transport is None else transport.socket
    if sock is None or not is_supported() or limit is None or 0 < limit < MIN_PDU:
        return None
    return Line(association, sock, timeout)


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnreadableObjectError(f"cannot be read: {error.strerror}") from error


def _read_into(file: BinaryIO, view: memoryview) -> None:
    while view:
        with _readable():
            count = cast("int | None", file.readinto(view))  # type: ignore[attr-defined]
        if not count:
            raise UnreadableObjectError("the file ends too early")
        view = view[count:]
