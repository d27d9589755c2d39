"""The hash chain of the audit trail: what an entry's hash covers, and who broke it.

Each hash is an HMAC-SHA-256, keyed with a secret of the installation, over the hash
before it and the canonical JSON of the entry. Whoever can write the table and has not
the key cannot make an entry that holds.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

GENESIS: Final = "0" * 64
"""What stands in for the hash before the first entry."""

KEY_LABEL: Final = b"sentinode audit trail 1"


@dataclass(frozen=True, slots=True)
class Link:
    """One entry as it stands in the table: its content, and the hashes beside it."""

    sequence: int
    content: Mapping[str, Any]
    previous_hash: str
    hash: str


@dataclass(frozen=True, slots=True)
class Head:
    """How long the chain is, and the hash of its newest entry."""

    count: int
    hash: str


EMPTY: Final = Head(0, GENESIS)
NOTHING: Final[Mapping[int, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many entries hold; `sequence` and `fault` name the first that does not."""

    entries: int
    head: Head
    sequence: int | None = None
    fault: str | None = None

    @property
    def holds(self) -> bool:
        """Say whether the whole chain holds."""
        return self.fault is None


def derive_key(secret: bytes) -> bytes:
    """Return the key of the chain, made from the installation's secret."""
    return hmac.digest(secret, KEY_LABEL, "sha256")


def canonical(content: Mapping[str, Any]) -> bytes:
    """Return the one way to write an entry's content as bytes."""
    return json.dumps(
        content,
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        default=_encode,
    ).encode("ascii")


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    raise TypeError(f"an entry cannot hold a {type(value).__name__}")


def digest(key: bytes, previous_hash: str, content: Mapping[str, Any]) -> str:
    """Return the hash of an entry."""
    message = bytes.fromhex(previous_hash) + canonical(content)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def verify(
    key: bytes,
    links: Iterable[Link],
    head: Head | None,
    witnessed: Mapping[int, str] = NOTHING,
) -> Verdict:
    """Walk a chain from its first entry.

    Args:
        key: The key of the chain.
        links: Its entries, in their order.
        head: What it was known to reach, by the data folder.
        witnessed: The hash of entries by number, as somebody else has them.

    Returns:
        The verdict; what is wrong is said of the first entry that does not hold.
    """
    last = EMPTY
    marked = None
    for link in links:
        fault = _fault(key, last, link) or _contradiction(link, witnessed)
        if fault is not None:
            sequence = min(link.sequence, last.count + 1)
            return Verdict(last.count, last, sequence, fault)
        last = Head(link.sequence, link.hash)
        if head is not None and link.sequence == head.count:
            marked = link.hash
    if witnessed and max(witnessed) > (last if head is None else head).count:
        newest = max(witnessed)
        head, marked = Head(newest, witnessed[newest]), witnessed[newest]
    fault = None if head is None else _short_of(head, last, marked)
    if head is None or fault is None:
        return Verdict(last.count, last)
    return Verdict(last.count, last, min(head.count, last.count + 1), fault)


def _contradiction(link: Link, witnessed: Mapping[int, str]) -> str | None:
    """Say that somebody else has another entry of this number."""
    if witnessed.get(link.sequence, link.hash) == link.hash:
        return None
    return "rewritten: it is not the entry that was sent and exported"


def _short_of(head: Head, last: Head, marked: str | None) -> str | None:
    """Say in what a chain that holds falls short of what it was known to reach."""
    if head.count > last.count:
        gone = head.count - last.count
        return f"truncated: the newest {gone} of {head.count} entries are gone"
    if head.count and marked != head.hash:
        return "rewritten: it is not the entry that was written here"
    return None


def _fault(key: bytes, last: Head, link: Link) -> str | None:
    """Say what is wrong with the entry after `last`, None when it holds."""
    if link.sequence != last.count + 1:
        return f"deleted: the next entry is number {link.sequence}"
    if not hmac.compare_digest(
        link.hash, digest(key, link.previous_hash, link.content)
    ):
        return "altered, moved or forged: its hash was not made of it with our key"
    if link.previous_hash != last.hash:
        return "broken: it does not follow the entry before it (replaced or moved)"
    return None
