"""Where results go: an application entity, or a DICOMweb service.

A destination is text in the database, and nothing secret is part of that text: what
a service asks for to let us in stands in files.
"""

from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from dicom_node.errors import SettingsError
from dicom_node.study import Peer

SCHEMES: Final = frozenset({"http", "https"})


@dataclass(frozen=True, slots=True)
class WebService:
    """A STOW-RS service (PS3.18), written as the URL that `/studies` is added to."""

    url: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read http(s)://HOST[:PORT][/PATH].

        Raises:
            ValueError: The text has another form. It is not quoted: a password that
                was written into the URL by mistake must reach no log.
        """
        form = "is not of the form https://HOST[:PORT][/PATH]"
        try:
            parts = urlsplit(text.strip())
            parts.port  # noqa: B018 - reading it is the check
        except ValueError:
            raise ValueError(form) from None
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise ValueError(form)
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(f"{form}: credentials come from a file, never in the URL")
        return cls(text.strip().rstrip("/"))

    @property
    def host(self) -> str:
        """The name or address of the server, without its port."""
        return urlsplit(self.url).hostname or ""

    @property
    def is_encrypted(self) -> bool:
        """Say whether what goes there is hidden from the network."""
        return urlsplit(self.url).scheme == "https"

    def __str__(self) -> str:
        return self.url


Destination = Peer | WebService


def parse_destination(text: str) -> Destination:
    """Read AET@HOST:PORT or the URL of a STOW-RS service.

    Raises:
        ValueError: The text has neither form.
    """
    if "://" in text:
        return WebService.parse(text)
    return Peer.parse(text)


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to prove who we are, by files that only this process need be able to read.

    A token file holds a bearer token, a password file USER:PASSWORD; each is read
    anew for every exchange, so that it may be replaced. `ca_file` holds the
    certificates that the service's is checked against, None: those of the system.
    """

    token_file: Path | None = None
    password_file: Path | None = None
    ca_file: Path | None = None

    def header(self) -> str | None:
        """Return the Authorization header.

        Raises:
            SettingsError: The file cannot be read, or holds something else.
        """
        if self.token_file is not None:
            return f"Bearer {read_secret(self.token_file)}"
        if self.password_file is not None:
            pair = read_secret(self.password_file)
            if ":" not in pair:
                raise SettingsError(f"{self.password_file} must hold USER:PASSWORD")
            return f"Basic {b64encode(pair.encode()).decode('ascii')}"
        return None


def read_secret(path: Path) -> str:
    """Return the one line of a file that holds a secret.

    Raises:
        SettingsError: It cannot be read, or holds something else.
    """
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read as a secret") from error
    if not secret or not secret.isprintable():
        raise SettingsError(f"{path} must hold one line, the secret")
    return secret
