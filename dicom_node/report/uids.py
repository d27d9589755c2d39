"""UIDs that follow from content: the same result has the same UIDs on every try."""

import uuid
from typing import Final

NAMESPACE: Final = uuid.UUID("6b0c1a52-7d0e-5c67-9f4d-0b4f1c7a2e93")
"""Name space of every UID derived here; never change it."""


def derived_uid(*parts: object) -> str:
    """Return the UID that belongs to `parts`, below the UUID root 2.25 (PS3.5 B.2).

    Equal parts give an equal UID, in every process and on every machine.
    """
    name = "\\".join(str(part) for part in parts)
    return f"2.25.{uuid.uuid5(NAMESPACE, name).int}"
