"""The minimal lower layer protocol: HL7 messages over TCP or TLS, one answer to each.

    VT message FS CR  ->  handler(message)  ->  VT answer FS CR

MLLP authenticates nobody: callers are admitted by address, and by certificate where a
client CA is set. The streams of python-hl7 are not used: they keep no reference to the
task of a connection, and know no time limit.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from hl7.mllp.streams import CARRIAGE_RETURN, END_BLOCK, START_BLOCK

from dicom_node import tls
from dicom_node.errors import SettingsError
from dicom_node.settings import Network, unmapped
from dicom_node.tls import HANDSHAKE_TIMEOUT_S, TlsFiles

log = logging.getLogger(__name__)

END: Final = END_BLOCK + CARRIAGE_RETURN
BETWEEN: Final = b"\r\n"
"""What some senders put behind a block; it is skipped."""
MAX_CONNECTIONS: Final = 32
WRITE_TIMEOUT_S: Final = 10.0
HEAD_BYTES: Final = 4096

Handler = Callable[[bytes], bytes]


class UnframedError(Exception):
    """What came is no block; the connection cannot be used any further."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a message may be, and how long it and the next one may take."""

    max_bytes: int
    frame_timeout: timedelta
    idle_timeout: timedelta


@dataclass(frozen=True, slots=True)
class Service:
    """What stands behind the port.

    `handle` answers a message, in a thread; it raises UnframedError for bytes that
    cannot be answered. `too_long` answers from the first bytes of an oversized one.
    Without `allow` only this host may call.
    """

    handle: Handler
    too_long: Handler
    allow: tuple[Network, ...]
    limits: Limits

    def admits(self, address: str) -> bool:
        """Say whether a call from this IP address is admitted."""
        found = unmapped(address)
        if not self.allow:
            return found.is_loopback
        return any(found in network for network in self.allow)


def secured(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> ssl.SSLContext | None:
    """Return the TLS of a server, None without a certificate.

    Args:
        certificate: PEM chain of the server.
        key: Its private key, PEM, without a passphrase.
        client_ca: PEM of the authorities whose clients alone are admitted.

    Raises:
        SettingsError: A file is missing or is not what it should be.
    """
    if certificate is None or key is None:
        if (certificate, key, client_ca) != (None, None, None):
            raise SettingsError("TLS needs both a certificate and its key")
        return None
    files = TlsFiles(certificate, key, client_ca)
    context = tls.server_context(files, mutual=client_ca is not None)
    context.sslobject_class = _Handshake
    return context


class _Handshake(ssl.SSLObject):
    """Says why a handshake failed: asyncio hangs up and tells nobody."""

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            log.warning("HL7 connection refused: %s", tls.explain(error))
            raise


class Server:
    """One MLLP port, from `start` to `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str, port: int, context: ssl.SSLContext | None) -> int:
        """Listen; return the port, which is chosen when 0 is asked for."""
        self._server = await asyncio.start_server(
            self._connected,
            host,
            port,
            limit=self._service.limits.max_bytes,
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if context else None,
        )
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def stop(self, grace: float) -> None:
        """Take no more calls; let messages that are being answered end."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()  # an answer under way is shielded
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        peer = writer.get_extra_info("peername")
        address = str(peer[0]) if peer else "0.0.0.0"  # noqa: S104 - admitted by nobody
        try:
            if len(self._tasks) > MAX_CONNECTIONS:
                log.warning("HL7 call refused: too many", extra={"peer": address})
            elif self._service.admits(address):
                await self._serve(reader, writer, address)
            else:
                log.warning("HL7 call refused", extra={"peer": address})
        except (OSError, UnframedError, asyncio.IncompleteReadError, TimeoutError) as e:
            what = {"peer": address, "error": type(e).__name__}
            log.warning("HL7 connection closed", extra=what)
        except asyncio.CancelledError:
            pass  # we stop; the task ends here by itself
        finally:
            writer.close()

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str,
    ) -> None:
        while (request := await self._request(reader)) is not None:
            answering = asyncio.ensure_future(_answer(*request, writer))
            try:
                await asyncio.shield(answering)
            except asyncio.CancelledError:
                await answering  # what was promised is answered before we stop
                raise
        log.debug("HL7 connection ended", extra={"peer": address})

    async def _request(
        self, reader: asyncio.StreamReader
    ) -> tuple[Handler, bytes] | None:
        """Return the next message and who answers it, None at the end."""
        limits = self._service.limits
        first = BETWEEN[:1]
        while first and first in BETWEEN:
            async with asyncio.timeout(limits.idle_timeout.total_seconds()):
                first = await reader.read(1)
        if not first:
            return None
        if first != START_BLOCK:
            raise UnframedError
        async with asyncio.timeout(limits.frame_timeout.total_seconds()):
            try:
                block = await reader.readuntil(END)
            except asyncio.LimitOverrunError:
                return self._service.too_long, await _skip(reader)
        return self._service.handle, block[: -len(END)]


async def _skip(reader: asyncio.StreamReader) -> bytes:
    """Read a block to its end without keeping it; return its first bytes."""
    head = await reader.read(HEAD_BYTES)
    chunk, tail = head, head
    while chunk and END not in tail:
        chunk = await reader.read(HEAD_BYTES)
        tail = tail[-1:] + chunk
    return head


async def _answer(handler: Handler, block: bytes, writer: asyncio.StreamWriter) -> None:
    answer = await asyncio.to_thread(handler, block)
    await _write(writer, answer)


async def _write(writer: asyncio.StreamWriter, answer: bytes) -> None:
    writer.write(START_BLOCK + answer + END)
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await writer.drain()
