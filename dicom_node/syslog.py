"""Sending lines to a syslog collector: over TLS, TCP or UDP (RFC 5425, 6587, 5426).

Syslog has no answer. What comes nearest: over TLS and TCP a batch counts as taken when
the collector has read it to its end and closed its side in order. One that dies with
bytes unread resets the connection, and the batch is sent again.
"""

import fcntl
import os
import re
import socket
import ssl
import struct
import termios
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from dicom_node.errors import PeerUnavailableError, SettingsError

TLS, TCP, UDP = "tls", "tcp", "udp"
PORTS: Final = {TLS: 6514, TCP: 601, UDP: 514}
"""Ports where none is named (RFC 5425, 3195, 5426)."""

HOST: Final = re.compile(r"[A-Za-z0-9._:%-]+")
CHUNK_BYTES: Final = 65_536
POLL_S: Final = 0.01
PACE_S: Final = 0.005
"""Between two datagrams: nobody tells that a buffer is full (RFC 5426 4.3)."""


@dataclass(frozen=True, slots=True)
class Collector:
    """Where the lines go: `scheme` is tls, tcp or udp."""

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read tls://HOST:PORT, tcp://HOST:PORT or udp://HOST:PORT.

        Raises:
            ValueError: The text has another form.
        """
        url = urlsplit(text)
        rest = (url.path.strip("/"), url.query, url.fragment, url.username)
        host = url.hostname or ""
        if url.scheme not in PORTS or not HOST.fullmatch(host) or any(rest):
            raise ValueError(
                "is not tls://HOST:PORT, tcp://HOST:PORT or udp://HOST:PORT"
            )
        return cls(url.scheme, host, url.port or PORTS[url.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom we trust (None: the system's authorities), and who we are."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return how to speak TLS: version 1.2 or later, the host's name is checked.

        Raises:
            SettingsError: A file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                "SENTINODE_AUDIT_SYSLOG_CA_FILE, _CERTIFICATE or _KEY cannot be used: "
                f"{error.strerror or type(error).__name__}"
            ) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


def frame(line: str) -> bytes:
    """Return a line as it stands in a stream: its length, a space, its bytes."""
    content = line.encode()
    return b"%d %s" % (len(content), content)


def send(
    collector: Collector, lines: Iterable[str], identity: Identity, timeout: float
) -> None:
    """Send lines in their order; all are taken when this returns.

    Raises:
        PeerUnavailableError: The collector is not there, is not trusted, or went away
            before it had read them all: send them again.
        SettingsError: A file of the identity cannot be used.
    """
    context = identity.context() if collector.scheme == TLS else None
    try:
        if collector.scheme == UDP:
            _send_datagrams(collector, lines, timeout)
            return
        address = (collector.host, collector.port)
        with socket.create_connection(address, timeout) as plain:
            if context is None:
                _write(plain, lines)
                _finish(plain)
                return
            with context.wrap_socket(plain, server_hostname=collector.host) as secured:
                _write(secured, lines)
                _finish_tls(secured)
    except ssl.SSLCertVerificationError as error:
        raise PeerUnavailableError(
            f"the certificate of {collector} is not trusted: {error.verify_message}"
        ) from error
    except (OSError, ssl.SSLError) as error:
        why = getattr(error, "reason", None) or error.strerror or type(error).__name__
        raise PeerUnavailableError(
            f"{collector} does not take entries: {why}"
        ) from error


def _write(connection: socket.socket, lines: Iterable[str]) -> None:
    waiting = bytearray()
    for line in lines:
        waiting += frame(line)
        if len(waiting) >= CHUNK_BYTES:
            connection.sendall(waiting)
            waiting.clear()
    connection.sendall(waiting)


def _finish(connection: socket.socket) -> None:
    """Say that no more comes, and wait until the other side has closed too."""
    connection.shutdown(socket.SHUT_WR)
    with suppress(TimeoutError):  # it keeps its side open: that it has all, counts
        while connection.recv(CHUNK_BYTES):
            pass
    _await_acknowledged(connection)


def _finish_tls(connection: ssl.SSLSocket) -> None:
    """Close the TLS session in order; a collector may close without a word of TLS."""
    try:
        connection.unwrap()
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError, TimeoutError):
        pass
    except OSError as error:
        if error.errno != 0:  # 0 is how Python tells of an end without close_notify
            raise
    _await_acknowledged(connection)


def _await_acknowledged(connection: socket.socket) -> None:
    """Wait until the other host has every byte; a reset says that it threw them away.

    It may refuse us after the handshake, and close before it reads: then its end comes
    first and the reset after it.
    """
    deadline = time.monotonic() + (connection.gettimeout() or 0)
    while True:
        fault = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if fault:
            raise ConnectionResetError(fault, os.strerror(fault))
        if not _unacknowledged(connection):
            return
        if time.monotonic() > deadline:
            raise TimeoutError("not acknowledged")
        time.sleep(POLL_S)


def _unacknowledged(connection: socket.socket) -> int:
    """Return how many bytes the other host has not acknowledged."""
    answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    (count,) = struct.unpack("i", answer)
    return int(count)


def _send_datagrams(collector: Collector, lines: Iterable[str], timeout: float) -> None:
    """Send each line as a datagram; only a closed port of a host that is up shows."""
    found = socket.getaddrinfo(collector.host, collector.port, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as connection:
        connection.settimeout(timeout)
        connection.connect(address)
        for line in lines:
            connection.send(line.encode())
            time.sleep(PACE_S)
        connection.settimeout(0.05)
        with suppress(TimeoutError):
            connection.recv(1)  # nothing comes but the news that nobody listens
