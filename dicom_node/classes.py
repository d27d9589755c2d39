"""How many instances of which SOP class, as one text: "UID=n,UID=n"."""

from collections.abc import Mapping


def written(counts: Mapping[str, int]) -> str:
    """Write counts by SOP class UID, in the order of the UIDs."""
    return ",".join(f"{uid}={count}" for uid, count in sorted(counts.items()))


def read(text: str | None) -> dict[str, int]:
    """Read what `written` wrote; nothing where nothing is known."""
    parts = [one.partition("=") for one in (text or "").split(",") if one]
    return {uid: int(count) for uid, _, count in parts}
