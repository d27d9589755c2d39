"""A DICOM port: nobody who is slow, silent or speaks otherwise holds up the others.

pynetdicom would do the TLS handshake in the thread that accepts connections, and count
a connection that says nothing as an association. Here each connection waits in a
thread of its own until its first byte is there and the handshake is done, for a
bounded time, and so do only so many; then pynetdicom takes over.
"""

import logging
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom import AE
from pynetdicom.events import EventHandlerType
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node import tls
from dicom_node.limits import Rate, Silent

log = logging.getLogger(__name__)

BACKLOG: Final = 128
FIRST_BYTE_TIMEOUT_S: Final = 30.0
NETWORK_TIMEOUT_S: Final = 60.0

TOO_MANY_SILENT: Final = "too many of its connections ask for nothing"
TOO_OFTEN: Final = "it calls too often"
TLS_ON_PLAIN: Final = "it speaks TLS on the port without TLS"

Refused = Callable[[str, str], None]
"""Told the address of a connection that was hung up on, and why."""


@dataclass(frozen=True, slots=True)
class Door:
    """Who may connect, before it is known who calls; others may stand at the port."""

    silent: Silent
    rate: Rate
    refused: Refused
    shares_port: bool = False


class Server(ThreadedAssociationServer):
    """One port, with TLS or without."""

    daemon_threads = True
    request_queue_size = BACKLOG

    def __init__(
        self,
        entity: AE,
        address: tuple[str, int],
        handlers: Sequence[EventHandlerType],
        door: Door,
        secured: tls.Port | None = None,
    ) -> None:
        self._door = door
        self._secured = secured
        self._stopped = False
        super().__init__(
            entity,
            address,
            entity.ae_title,
            entity.supported_contexts,
            evt_handlers=list(handlers),
        )
        # Sockets of callers inherit the option.
        self._listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def server_bind(self) -> None:
        """Take the port: alone, or with other listeners of this host (SO_REUSEPORT)."""
        if self._door.shares_port and self.socket is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().server_bind()

    @property
    def port(self) -> int:
        """The TCP port; with port 0 the one that was free."""
        return int(self.server_address[1])

    @property
    def _listening(self) -> socket.socket:
        if self.socket is None:
            raise RuntimeError("the port is closed")
        return self.socket

    def start(self) -> None:
        """Take calls from now on, in a thread."""
        self.ae._servers.append(self)  # noqa: SLF001 - as AE.start_server does; shutdown takes it out
        name = f"AcceptorServer@{self.port}"
        threading.Thread(target=self.serve_forever, name=name, daemon=True).start()

    def shutdown(self) -> None:
        """Take no more calls."""
        self._stopped = True
        super().shutdown()

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ANN401 - as declared by socketserver
        """Say whether a connection may wait its turn; it is closed otherwise."""
        del request
        address = str(client_address[0])
        if not self._door.silent.enter((address, int(client_address[1]))):
            self._door.refused(address, TOO_MANY_SILENT)
            return False
        if self._secured is not None and not self._door.rate.take(address):
            self._door.silent.leave((address, int(client_address[1])))
            self._door.refused(address, TOO_OFTEN)
            return False
        return True

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as declared by socketserver
        """Wait for the caller's first word, in a thread of its own."""
        try:
            ready = self._awaited(request, str(client_address[0]))
        except OSError as error:
            self._door.refused(str(client_address[0]), tls.explain(error))
            ready = None
        if ready is None or self._stopped:
            self._door.silent.leave((str(client_address[0]), int(client_address[1])))
            self.shutdown_request(ready or request)
            return
        super().finish_request(ready, client_address)

    def _awaited(self, request: socket.socket, address: str) -> socket.socket | None:
        """Return a connection that pynetdicom may read; None when it ended.

        Raises:
            OSError: The handshake failed.
        """
        secured = self._secured
        request.settimeout(tls.HANDSHAKE_TIMEOUT_S if secured else FIRST_BYTE_TIMEOUT_S)
        try:
            first = request.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            first = b""
        if not first:  # somebody looked whether the port is open
            log.debug("connection closed before it said a word")
            return None
        speaks_tls = first[0] == tls.CLIENT_HELLO
        if speaks_tls is not (secured is not None):
            self._door.refused(address, TLS_ON_PLAIN if speaks_tls else tls.NOT_TLS)
            return None
        if secured is not None:
            request = secured.context.wrap_socket(request, server_side=True)
        # pynetdicom reads a PDU to its end, however long the rest may take to come.
        request.settimeout(NETWORK_TIMEOUT_S)
        return request

    def handle_error(self, request: object, client_address: Any) -> None:  # noqa: ANN401 - as declared by socketserver
        """Log that a connection could not be served, without what came over it."""
        del request
        extra = {
            "address": str(client_address[0]),
            "error": type(sys.exception()).__name__,
        }
        log.error("connection failed", extra=extra)
