"""A small HTTP server: a few pages, GET and HEAD alone, bounded in every direction.

The one of the standard library with limits: connections at once, bytes of a request,
time for one. A page is a function; its answer is the same for everybody who may see it.
"""

import base64
import binascii
import hmac
import io
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import AF_INET, AF_INET6, SHUT_RDWR, socket
from typing import Any, Final
from urllib.parse import urlsplit

from dicom_node.destination import read_secret
from dicom_node.errors import SettingsError
from worker.webhook import LOOPBACK

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 32
MAX_REQUEST_BYTES: Final = 16_384
IDLE_S: Final = 10.0
REQUEST_S: Final = 60.0
MIN_TOKEN_LENGTH: Final = 16
TEXT: Final = "text/plain; charset=utf-8"
SECURITY: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered to a request; headers come on top of the usual ones."""

    status: HTTPStatus
    content: bytes
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """One page; `full` says to its function whether the caller may see everything.

    An open page answers those who do not know the token too.
    """

    answer: Callable[[bool], Answer]
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """Who may see the pages: who knows the token, or without one this host.

    The token comes as a bearer token, or as the password of any user, which a browser
    asks for: so nothing needs to be posted, and no cookie be kept.
    """

    token_file: Path | None = None

    def admits(self, authorization: str, host: str) -> bool:
        """Say whether a request may see everything.

        Without a token the host that it names must be this one: a page of a stranger
        can make a browser call it by a name of his own (DNS rebinding).
        """
        if self.token_file is None:
            return urlsplit(f"//{host}").hostname in LOOPBACK
        return hmac.compare_digest(_token_of(authorization), self.token())

    def token(self) -> bytes:
        """Return the token, read anew each time so that it may be replaced.

        Raises:
            SettingsError: It cannot be read, or is too short to be one.
        """
        if self.token_file is None:
            return b""
        token = read_secret(self.token_file)
        if len(token) < MIN_TOKEN_LENGTH:
            raise SettingsError(
                f"{self.token_file} must hold {MIN_TOKEN_LENGTH} characters or more"
            )
        return token.encode()


def _token_of(authorization: str) -> bytes:
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode()
    try:
        decoded = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return decoded.partition(b":")[2] if scheme.lower() == "basic" else b""


class Server(ThreadingHTTPServer):
    """Serves pages until `shutdown`."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(
        self, address: tuple[str, int], pages: Mapping[str, Page], guard: Guard
    ) -> None:
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        self.pages = pages
        self.guard = guard
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, Handler)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the base class's types
        """Serve a connection when there is room, else hang up."""
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Serve one connection, and hang up when it takes too long."""
        alarm = threading.Timer(REQUEST_S, _hang_up, (request,))
        alarm.daemon = True
        alarm.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            alarm.cancel()
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - as above
        """Say that a request failed, without its content."""
        del request, client_address
        log.warning("an HTTP request failed")


def _hang_up(connection: socket) -> None:
    """Wake a thread that reads or writes; to close alone would not."""
    with suppress(OSError):
        connection.shutdown(SHUT_RDWR)


class _Bounded(io.BufferedIOBase):
    """What is read of a request, up to a number of bytes."""

    def __init__(self, source: io.BufferedIOBase) -> None:
        self._source = source
        self._left = MAX_REQUEST_BYTES

    def readline(self, size: int | None = -1) -> bytes:
        """Return a line; too many bytes end the connection."""
        del size
        line = self._source.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise ConnectionAbortedError("the request is too long")
        return line

    def close(self) -> None:
        """Close what is read from."""
        self._source.close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    timeout = IDLE_S
    server: Server

    def setup(self) -> None:
        """Bound what is read."""
        super().setup()
        self.rfile = _Bounded(self.rfile)

    def do_GET(self) -> None:
        """Answer with a page."""
        self._send(self._answer(), with_content=True)

    def do_HEAD(self) -> None:
        """Answer with the headers of a page."""
        self._send(self._answer(), with_content=False)

    def _answer(self) -> Answer:
        page = self.server.pages.get(urlsplit(self.path).path)
        try:
            authorization = self.headers.get("Authorization", "")
            host = self.headers.get("Host", "")
            full = self.server.guard.admits(authorization, host)
            if not full and (page is None or not page.is_open):
                return _closed(self.server.guard)
            if page is None:
                return Answer(HTTPStatus.NOT_FOUND, b"There is no such page.\n")
            return page.answer(full)
        except Exception as error:  # noqa: BLE001 - one request must not end the server
            log.warning("a page failed", extra={"error": type(error).__name__})
            said = b"The page could not be made; see the log.\n"
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, said)

    def _send(self, answer: Answer, *, with_content: bool) -> None:
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.content)),
            **SECURITY,
            **answer.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(answer.content)

    def send_error(
        self, code: int, message: str | None = None, explain: str | None = None
    ) -> None:
        """Answer what the base class refuses, in our words."""
        del message, explain
        headers = {"Connection": "close"}
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code = HTTPStatus.METHOD_NOT_ALLOWED
            headers["Allow"] = "GET, HEAD"
        status = HTTPStatus(code)
        said = f"{status.phrase}.\n".encode()
        self._send(Answer(status, said, headers=headers), with_content=True)

    def version_string(self) -> str:
        """Name no versions."""
        return "sentinode"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Log no request: a monitoring system asks all day."""


def _closed(guard: Guard) -> Answer:
    if guard.token_file is None:
        said = b"Call this by localhost or 127.0.0.1.\n"
        return Answer(HTTPStatus.FORBIDDEN, said)
    challenge = {"WWW-Authenticate": 'Basic realm="Sentinode", charset="UTF-8"'}
    said = b"Give the token as bearer token, or as password of any user.\n"
    return Answer(HTTPStatus.UNAUTHORIZED, said, headers=challenge)
