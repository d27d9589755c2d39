"""TLS of DICOM and HL7: who we are, whom we trust, and why a handshake failed.

The profile is that of PS3.15 B.12 (BCP 195): TLS 1.2 or later, and of TLS 1.2 the
cipher suites with forward secrecy that RFC 9325 section 4.2 names. Files are PEM. They
are read anew when they change, so a renewed certificate needs no restart.
"""

import hashlib
import logging
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self, cast

from dicom_node.errors import SettingsError

log = logging.getLogger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 10.0
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
CLIENT_HELLO: Final = 0x16
"""First byte of every connection that speaks TLS: a handshake record (RFC 8446 5.1)."""

NOT_TLS: Final = "it speaks no TLS"
NO_CERTIFICATE: Final = "it showed no certificate"
SILENT: Final = "the TLS handshake took too long"
HUNG_UP: Final = "it hung up during the TLS handshake"
DISTRUSTED: Final = "it does not trust the certificate that we show"

_REASONS: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": NO_CERTIFICATE,
    "UNSUPPORTED_PROTOCOL": "it speaks no TLS from version 1.2 on",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no TLS from version 1.2 on",
    "NO_SHARED_CIPHER": "it has no cipher suite in common with us",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refuses the handshake: it may want a "
    "certificate, or has no cipher suite in common with us",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it demands a certificate, and we have none",
    "TLSV1_ALERT_UNKNOWN_CA": DISTRUSTED,
    "SSLV3_ALERT_BAD_CERTIFICATE": DISTRUSTED,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": DISTRUSTED,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it calls the certificate that we show expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "it calls the certificate that we show revoked",
    "WRONG_VERSION_NUMBER": NOT_TLS,
    "RECORD_LAYER_FAILURE": NOT_TLS,
    "PACKET_LENGTH_TOO_LONG": NOT_TLS,
    "HTTP_REQUEST": NOT_TLS,
}


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """The PEM files of one installation; a key has no passphrase.

    `ca` holds the authorities, or single certificates, that the other side must show a
    certificate of; None: those of the system, for servers alone. `crl` holds revoked
    certificates, with a list of each authority.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    crl: Path | None = None

    @property
    def given(self) -> tuple[Path, ...]:
        """The files that there are."""
        each = (self.certificate, self.key, self.ca, self.crl)
        return tuple(path for path in each if path is not None)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who we are for the peers that we call: an AE title, and how to prove it by TLS.

    `itself` says that the peer is our own listener: it must show our own certificate,
    under whatever name we reach it.
    """

    ae_title: str
    files: TlsFiles = TlsFiles()
    itself: bool = False


Calling = str | Caller
"""Our AE title; or with it what a peer that is called by TLS asks for."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a verified certificate says of its holder: names, SHA-256 in hex."""

    names: frozenset[str]
    fingerprint: str

    @classmethod
    def of(cls, connection: object) -> Self | None:
        """Return the certificate of the other end, None when it showed none."""
        if not isinstance(connection, ssl.SSLSocket):
            return None
        content = connection.getpeercert(binary_form=True)
        said = cast("dict[str, Any]", connection.getpeercert() or {})
        if not content or not said:
            return None
        subject = (pair for part in said.get("subject", ()) for pair in part)
        common = [value for name, value in subject if name == "commonName"]
        others = [value for _, value in said.get("subjectAltName", ())]
        names = frozenset(str(name).lower() for name in (*common, *others))
        return cls(names, hashlib.sha256(content).hexdigest())


class ClientContext(ssl.SSLContext):
    """The TLS of one call, which remembers why it failed: pynetdicom only logs that."""

    fault: str | None = None


class _ClientSocket(ssl.SSLSocket):
    """Notes faults; with TLS 1.3 that of our certificate comes with the first read."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as declared by the standard library
        try:
            super().do_handshake(block)
        except OSError as error:
            cast("ClientContext", self.context).fault = explain(error)
            self.close()  # pynetdicom leaves that to the collector
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        try:
            return super().recv(buflen, flags)
        except OSError as error:
            cast("ClientContext", self.context).fault = explain(error)
            raise


def client_context(files: TlsFiles, *, itself: bool = False) -> ClientContext:
    """Return the TLS of a call; the peer's certificate and host name are verified.

    Args:
        files: Who we are, where the peer asks, and whom we trust.
        itself: The peer is our own listener, known by its certificate alone.

    Raises:
        SettingsError: A file is missing or is not what it should be.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _ClientSocket
    _harden(context)
    context.check_hostname = not itself
    with _naming(files.given):
        if files.certificate is not None:
            _prove(context, files)
        trusted = files.certificate if itself else files.ca
        if trusted is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(trusted)
        if files.crl is not None and not itself:
            _revoke(context, files.crl)
    return context


def server_context(files: TlsFiles, *, mutual: bool) -> ssl.SSLContext:
    """Return the TLS of a port.

    Args:
        files: Who we are; `ca` says whose clients are admitted.
        mutual: Every client must show a certificate.

    Raises:
        SettingsError: A file is missing or is not what it should be.
    """
    if files.certificate is None or files.key is None:
        raise SettingsError("TLS needs both a certificate and its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    context.options |= ssl.OP_NO_TICKET  # each connection shows its certificate anew
    context.num_tickets = 0
    with _naming(files.given):
        _prove(context, files)
        if not mutual:
            return context
        if files.ca is None:
            raise SettingsError("TLS needs the authority whose clients are admitted")
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.ca)
        context.load_verify_locations(files.certificate)  # whoever has our key is us
        if files.crl is not None:
            _revoke(context, files.crl)
    return context


class Port:
    """The TLS of a port, as its files say now.

    Files that were replaced by others that cannot be used change nothing, and are
    complained of once: the two halves of a pair are never replaced at one moment.
    """

    def __init__(self, files: TlsFiles, *, mutual: bool) -> None:
        self._files = files
        self._mutual = mutual
        self._stamp = _stamp(files)
        self._context = server_context(files, mutual=mutual)

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS to offer to the next caller."""
        stamp = _stamp(self._files)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._context = server_context(self._files, mutual=self._mutual)
            except SettingsError as error:
                extra = {"why": str(error)}
                log.error("TLS files changed and are not used", extra=extra)  # noqa: TRY400 - `why` says all
            else:
                log.info("TLS files are read anew")
        return self._context


def _stamp(files: TlsFiles) -> tuple[object, ...]:
    found: list[object] = []
    for path in files.given:
        try:
            status = path.stat()
        except OSError as error:
            found.append(error.errno)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(CIPHERS)  # of TLS 1.2; those of 1.3 are all allowed
    # A certificate that a site trusts by itself needs no authority above it.
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN


def _prove(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.load_cert_chain(
        cast("Path", files.certificate), files.key, password=_no_passphrase
    )


def _revoke(context: ssl.SSLContext, crl: Path) -> None:
    context.load_verify_locations(crl)
    context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _no_passphrase() -> str:
    """Keep OpenSSL from asking at a terminal."""
    raise ValueError("the key has a passphrase; give one without")


class _naming:  # noqa: N801 - used as a statement
    """Turn what OpenSSL says of files into a sentence that names them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = paths

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, OSError | ValueError):  # ssl.SSLError is an OSError
            return
        said = error.strerror if isinstance(error, OSError) else str(error)
        paths = ", ".join(str(path) for path in self._paths)
        raise SettingsError(f"TLS cannot use {paths}: {said}") from None


def explain(error: OSError) -> str:
    """Say why a handshake failed, of the other side as "it"."""
    if isinstance(error, TimeoutError):
        return SILENT
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionError):
        return HUNG_UP
    if isinstance(error, ssl.SSLError):
        return _explain(error)
    return f"the connection failed: {error.strerror or type(error).__name__}"


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    reason = error.reason or "unknown"
    return _REASONS.get(reason, f"TLS failed: {reason.lower().replace('_', ' ')}")


def expiries(path: Path) -> list[datetime]:
    """Return until when the first certificate of a file is valid, and its authorities.

    Raises:
        SettingsError: It cannot be read as certificates.
    """
    with _naming([path]):
        # The one decoder of the standard library that needs no connection.
        own = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]  # noqa: SLF001 - as above
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(path)
        found = [own, *context.get_ca_certs()]
    seconds = {ssl.cert_time_to_seconds(str(one["notAfter"])) for one in found}
    return sorted(datetime.fromtimestamp(each, UTC) for each in seconds)
