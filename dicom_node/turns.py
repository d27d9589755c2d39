"""Peers that speak out of turn, or not on: what pynetdicom does not expect.

A PDU may come while our answer to an earlier one is on its way. pynetdicom aborts, and
then finds an answer to send that its table of states (PS3.8 table 9-10) has no line
for: its thread ends with a traceback, and the association is never told. And when a
connection closes before it has asked for anything, the thread that waits for its
request goes on waiting. Who sends a PDU byte by byte would hold its thread, and its
place, for as long as it likes.
"""

import logging
import queue
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.fsm import InvalidEventError
from pynetdicom.transport import AssociationSocket

log = logging.getLogger(__name__)

CHUNK: Final = 2**16
AT_ONCE_S: Final = 0.001
INVALID_PDU: Final = "Evt19"
OWN_EVENTS: Final = frozenset({"Evt7", "Evt8", "Evt9", "Evt11", "Evt14", "Evt15"})
"""Answers and requests of ours that wait to be sent (PS3.8 table 9-7)."""


def keep(connection: Association, ended: Callable[[Association], None]) -> None:
    """Let a connection that was accepted just now end in order, whatever comes.

    Args:
        connection: Its thread has not started.
        ended: Called last of all, in its thread, also when no event told its end: one
            that closes while it is being established is established after its end.
    """
    run = connection.run

    def run_to_the_end() -> None:
        try:
            run()
        finally:
            ended(connection)

    connection.run = run_to_the_end  # type: ignore[method-assign] # as below
    machine = connection.dul.state_machine
    act = machine.do_action

    def forgiving(event: str) -> None:
        try:
            act(event)
        except InvalidEventError:
            log.warning("the peer spoke out of turn", extra={"event_is": event})
            if event in OWN_EVENTS:
                with suppress(queue.Empty):  # nobody hears it any more
                    connection.dul.to_provider_queue.get(block=False)
        except Exception as error:  # noqa: BLE001 - hostile bytes raise anything
            _misunderstood(connection, event, error)

    machine.do_action = forgiving  # type: ignore[method-assign] # it offers no other way
    connection.bind(evt.EVT_CONN_CLOSE, _end_waiting)
    _limit_patience(connection)


def _limit_patience(connection: Association) -> None:
    """Give a whole PDU the time that the socket's timeout gives each part of it."""
    transport = cast("AssociationSocket", connection.dul.socket)

    def receive(nr_bytes: int) -> bytearray:
        sock = transport.socket
        if sock is None:
            raise ConnectionError("the connection is closed")
        patience = sock.gettimeout()
        until = None if patience is None else time.monotonic() + patience
        received = bytearray()
        while len(received) < nr_bytes:
            if until is not None:
                sock.settimeout(max(until - time.monotonic(), AT_ONCE_S))
            part = sock.recv(min(CHUNK, nr_bytes - len(received)))
            if not part or (until is not None and time.monotonic() > until):
                break
            received += part
        sock.settimeout(patience)
        return received

    transport.recv = receive  # type: ignore[method-assign] # it has no setting for this


def _misunderstood(connection: Association, event: str, error: Exception) -> None:
    """Abort a peer whose PDU was framed well and holds nonsense; else hang up.

    The text of the error may quote the peer.
    """
    extra = {"event_is": event, "error": type(error).__name__}
    log.warning("a message cannot be understood", extra=extra)
    if event == INVALID_PDU:
        connection.dul.kill_dul()
    connection.dul.event_queue.put(INVALID_PDU)


def _end_waiting(event: Event) -> None:
    """Tell who waits for the request of a closed connection that none will come."""
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)
