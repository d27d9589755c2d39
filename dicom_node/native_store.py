"""C-STORE without pynetdicom's queues: from the socket to the file, and answered there.

pynetdicom takes a message through two threads that poll each millisecond, a queue of
PDUs, an object for each command element and a copy of the data set in memory: four
times the cost of what a store must do. Here the thread that reads a connection takes
a C-STORE request itself, as long as it is a plain one: its command in one fragment,
complete and valid, under a context that was accepted for its SOP class. Fragments of
its data set go to a file as they come, so memory is bounded by one PDU. Everything
else, whatever it is, is handed to pynetdicom byte for byte: other services, odd
commands, negotiation, release and abort.

It stands on parts of pynetdicom 3.0 that are no interface. With a version that it was
not proven on, and by TLS, pynetdicom serves alone.
"""

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from pynetdicom.association import Association as Connection
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.transport import AssociationSocket

from dicom_node.association import is_supported
from dicom_node.draft import Draft
from dicom_node.errors import SpoolFullError
from dicom_node.intake import Intake
from dicom_node.part10 import FileMeta
from dicom_node.turns import INVALID_PDU
from dicom_node.wire import (
    CONTEXT_AND_CONTROL,
    FRAGMENT_HEADER,
    IS_COMMAND,
    IS_LAST,
    LENGTH,
    P_DATA_TF,
    PDU_HEADER,
    StoreCommand,
    read_store,
    store_answer,
)

log = logging.getLogger(__name__)

ESTABLISHED: Final = "Sta6"
CLOSED: Final = "Evt17"
"""State and event of PS3.8 table 9-10, as pynetdicom names them."""

MARGIN_BYTES: Final = 2**20
"""What a message may have beside its instance, and a PDU beside its data."""

MAX_COMMAND: Final = 4096
CHUNK: Final = 2**18
LINGER_S: Final = 0.05
"""How long the next PDU is waited for before pynetdicom's loop has its turn again."""

Written = Draft | Exception
Finish = Callable[[Connection, FileMeta, Written], int]


class HungUpError(ConnectionError):
    """The peer closed the connection between two PDUs, as it does after a release."""


class ViolationError(Exception):
    """What came is no fragment that may come here; the association is aborted."""


@dataclass(slots=True)
class Message:
    """A C-STORE request whose data set is coming; a file that failed is its error."""

    context_id: int
    command: StoreCommand
    meta: FileMeta
    written: Written
    received: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes that a PDU and an instance may have."""

    pdu: int
    instance: int


def take_over(
    connection: Connection, intake: Intake, finish: Finish, limits: Limits
) -> "Reader | None":
    """Read an established association from here on.

    Args:
        connection: Its request was accepted.
        intake: Where data sets go while they come.
        finish: Called in the connection's reading thread with each data set that is
            complete, or with why it could not be written; returns the status.
        limits: Longer PDUs hang up, longer instances abort.

    Returns:
        What reads it; None when pynetdicom must go on alone.
    """
    transport = cast("AssociationSocket", connection.dul.socket)
    by_tls = isinstance(transport.socket, ssl.SSLSocket)
    if by_tls or not is_supported():
        return None
    reader = Reader(connection, intake, finish, limits)
    connection.dul._read_pdu_data = reader.read  # type: ignore[method-assign] # noqa: SLF001
    return reader


class Reader:
    """What reads one connection, in the thread that pynetdicom reads it in."""

    def __init__(
        self, connection: Connection, intake: Intake, finish: Finish, limits: Limits
    ) -> None:
        dul = connection.dul
        self._connection = connection
        self._intake = intake
        self._finish = finish
        self._limits = limits
        self._calling_ae = calling_ae(connection)
        self._transport = cast("AssociationSocket", dul.socket)
        self._stock_read = dul._read_pdu_data  # noqa: SLF001 - it reads what is not for us
        self._stock_receive = self._transport.recv
        self._transport.recv = self._receive  # type: ignore[method-assign] # it gets back what we read ahead
        self._ahead = bytearray()
        self._buffer = memoryview(bytearray(CHUNK))
        self._message: Message | None = None
        self._until: float | None = None
        self._reading = threading.Lock()
        self._ended = False

    def read(self) -> None:
        """Read one PDU, and those after it while they are there and for us."""
        with self._reading:
            self._read_on()
        if self._ended:
            self.end()

    def end(self) -> None:
        """Take away what was under way, now that the association is over.

        Its reading thread does so itself while it reads: it alone closes a file that
        it may be writing to.
        """
        self._ended = True
        if self._reading.acquire(blocking=False):
            try:
                self._drop_message()
            finally:
                self._reading.release()

    def _read_on(self) -> None:
        dul = self._connection.dul
        try:
            while self._read_one() and self._goes_on():
                dul._idle_timer.restart()  # noqa: SLF001 - its loop does so for each of its PDUs
        except ViolationError as violation:
            log.warning("association aborted: %s", violation, extra=self._whose())
            self._drop_message()
            dul.event_queue.put(INVALID_PDU)
        except OSError as error:
            if self._message is not None or not isinstance(error, HungUpError):
                extra = self._whose() | {"error": type(error).__name__}
                log.warning("connection closed before its end", extra=extra)
            self._drop_message()
            dul.event_queue.put(CLOSED)
        finally:
            self._connection._reactor_checkpoint.set()  # noqa: SLF001 - see _begin

    def _read_one(self) -> bool:
        """Read a PDU; False when pynetdicom read it."""
        self._start_clock()
        header = self._fill_header()
        kind, length = PDU_HEADER.unpack(header)
        is_ours = kind == P_DATA_TF and FRAGMENT_HEADER.size <= length
        if not is_ours or not self._may_take():
            return self._hand_over(header)
        if length > self._limits.pdu + MARGIN_BYTES:
            raise ConnectionError("the PDU is too long")
        first = self._fill(FRAGMENT_HEADER.size)
        size, context_id, control = FRAGMENT_HEADER.unpack(first)
        if self._message is not None:
            self._take_data(self._message, first, length)
            return True
        read, begun = first, False
        is_whole = control == IS_COMMAND | IS_LAST and size + LENGTH == length
        if is_whole and length <= MAX_COMMAND:
            command = self._fill(size - CONTEXT_AND_CONTROL)
            read, begun = first + command, self._begin(context_id, command)
        return begun or self._hand_over(header + read)

    def _may_take(self) -> bool:
        """Say whether a message may begin here, or one of ours goes on."""
        machine = self._connection.dul.state_machine
        stock_is_busy = self._connection.dimse.message is not None
        return machine.current_state == ESTABLISHED and not stock_is_busy

    def _begin(self, context_id: int, encoded: bytes) -> bool:
        """Begin a message; False when it is not one for us."""
        command = read_store(encoded)
        context = self._connection._accepted_cx.get(context_id)  # noqa: SLF001 - `accepted_contexts` sorts them each time
        if command is None or context is None:
            return False
        if context.abstract_syntax != command.sop_class_uid:
            return False
        # The other thread of the association would look for work a thousand times a
        # second; it waits here until `read` ends, or somebody aborts.
        self._connection._reactor_checkpoint.clear()  # noqa: SLF001
        meta = FileMeta(
            command.sop_class_uid,
            command.sop_instance_uid,
            str(context.transfer_syntax[0]),
            self._calling_ae,
        )
        written: Written
        try:
            written = self._intake.begin(meta)
        except Exception as error:  # noqa: BLE001 - it is answered when its data set is here
            written = error
        self._message = Message(context_id, command, meta, written)
        return True

    def _take_data(self, message: Message, first: bytes, length: int) -> None:
        """Take the fragments of a PDU of `length` bytes, whose first head was read.

        Raises:
            ViolationError: They are not the data of this message, or too long.
        """
        is_complete = False
        head = first
        while head:
            size, context_id, control = FRAGMENT_HEADER.unpack(head)
            length -= LENGTH + size
            is_data = not control & IS_COMMAND and context_id == message.context_id
            if not is_data or size < CONTEXT_AND_CONTROL or length < 0 or is_complete:
                raise ViolationError("a fragment is not of the message")
            self._copy(message, size - CONTEXT_AND_CONTROL)
            is_complete = bool(control & IS_LAST)
            if 0 < length < FRAGMENT_HEADER.size:
                raise ViolationError("a PDU ends within a fragment's head")
            head = self._fill(FRAGMENT_HEADER.size) if length else b""
        if is_complete:
            self._answer(message)

    def _copy(self, message: Message, size: int) -> None:
        """Put so many bytes of the data set into its file."""
        message.received += size
        if message.received > self._limits.instance + MARGIN_BYTES:
            raise ViolationError("the message is too long")
        while size:
            part = self._buffer[: min(size, CHUNK)]
            self._fill_into(part)
            size -= len(part)
            if isinstance(message.written, Draft):
                try:
                    self._intake.write(message.written, part)
                except SpoolFullError as error:  # the rest is read, then refused
                    message.written.close()
                    message.written = error

    def _answer(self, message: Message) -> None:
        self._message = None
        try:
            status = self._finish(self._connection, message.meta, message.written)
            answer = store_answer(message.context_id, message.command, status)
            self._socket.sendall(answer)
        finally:
            _close(message.written)

    def _drop_message(self) -> None:
        """Drop a message that will not be complete."""
        message, self._message = self._message, None
        if message is not None:
            _close(message.written)

    def _hand_over(self, ahead: bytes) -> bool:
        """Let pynetdicom read this PDU, which began with these bytes."""
        self._drop_message()
        self._ahead += ahead
        self._connection._reactor_checkpoint.set()  # noqa: SLF001 - see _begin
        self._stock_read()
        return False

    def _goes_on(self) -> bool:
        """Say whether there is more to read, before anything is to be sent."""
        dul = self._connection.dul
        if dul._kill_thread or dul.artim_timer.expired:  # noqa: SLF001 - as its own loop asks
            return False
        if dul.to_provider_queue.queue or dul.event_queue.queue:
            return False
        sock = self._transport.socket
        if sock is None:
            return False
        ready, _, _ = select.select([sock], [], [], LINGER_S)
        return bool(ready) and not dul.to_provider_queue.queue

    @property
    def _socket(self) -> socket.socket:
        sock = self._transport.socket
        if sock is None:
            raise ConnectionError("the connection is closed")
        return sock

    def _receive(self, nr_bytes: int) -> bytearray:
        """Give pynetdicom what was read ahead, then what its own reader reads."""
        ahead = self._ahead[:nr_bytes]
        del self._ahead[: len(ahead)]
        rest = nr_bytes - len(ahead)
        return ahead + self._stock_receive(rest) if rest else ahead

    def _start_clock(self) -> None:
        """Give the PDU that begins the time that the socket gives each part of it."""
        patience = self._socket.gettimeout()
        self._until = None if patience is None else time.monotonic() + patience

    def _fill_header(self) -> bytes:
        """Read the header of a PDU.

        Raises:
            HungUpError: There is none.
            OSError: The connection closes within it, or it takes too long.
        """
        part = memoryview(bytearray(PDU_HEADER.size))
        count = self._socket.recv_into(part)
        if not count:
            raise HungUpError("the peer closed the connection")
        self._fill_into(part[count:])
        return bytes(part)

    def _fill(self, size: int) -> bytes:
        part = memoryview(bytearray(size))
        self._fill_into(part)
        return bytes(part)

    def _fill_into(self, view: memoryview) -> None:
        """Read until a view is full.

        Raises:
            OSError: The connection closes, or the PDU takes too long.
        """
        while view:
            count = self._socket.recv_into(view)
            late = self._until is not None and time.monotonic() > self._until
            if not count or late:
                raise ConnectionError("the PDU did not come to its end")
            view = view[count:]

    def _whose(self) -> dict[str, object]:
        return {"calling_ae": self._calling_ae}


def calling_ae(connection: Connection) -> str:
    """Return the title under which an association was asked for."""
    primitive = cast("A_ASSOCIATE", connection.requestor.primitive)
    return primitive.calling_ae_title.strip()


def _close(written: Written) -> None:
    if isinstance(written, Draft):
        written.close()
