"""What others hold of the audit trail: number and hash of each entry in syslog lines.

A collector's file, or an export. Whoever can write our database cannot write there.
"""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dicom_node.errors import SettingsError

PLACE: Final = re.compile(
    r'ParticipantObjectID="sentinode:audit:(\d+)".*?type="hash" value="([^"]+)"',
    re.DOTALL,
)
HASH: Final = re.compile(r"[0-9a-f]{64}")


def read(path: Path) -> dict[int, str]:
    """Return the hash of each entry by its number; other lines are passed over.

    Raises:
        SettingsError: The file cannot be read, holds no entry, or two that differ.
    """
    found: dict[int, str] = {}
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for sequence, digest in _places(file):
                if found.setdefault(sequence, digest) != digest:
                    raise SettingsError(
                        f"{path} holds entry {sequence} in two versions"
                    )
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    if not found:
        raise SettingsError(f"{path} holds no entry: name a file of the collector")
    return found


def _places(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    for line in lines:
        match = PLACE.search(line)
        if match is None:
            continue
        try:
            digest = base64.b64decode(match[2], validate=True).decode("ascii")
        except ValueError:
            continue
        if HASH.fullmatch(digest):
            yield int(match[1]), digest
