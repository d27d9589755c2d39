"""Where results go: an application entity, or a DICOMweb service.

A destination is text in the database, and nothing secret is part of that text.
"""

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

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
