"""Changing bytes: of any kind, of text with separators, of data sets."""

from collections.abc import Callable
from random import Random

from tests.fuzz import elements

Mutate = Callable[[bytes, Random], bytes]

WILD_BYTES = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"]
WILD_BYTES += [
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"SQ\0\0\xff\xff\xff\xff",
]
SEPARATORS = b'|^~\\&\r\n\x0b\x1c,;\t@:/."=-% '


def of_bytes(data: bytes, rng: Random) -> bytes:
    """Flip, overwrite, insert, remove, repeat or cut."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 12])):
        rng.choice(CHANGES)(found, rng.randrange(len(found) + 1), rng)
    return bytes(found)


def _flip(found: bytearray, at: int, rng: Random) -> None:
    if found:
        found[at % len(found)] ^= 1 << rng.randrange(8)


def _set(found: bytearray, at: int, rng: Random) -> None:
    if found:
        found[at % len(found)] = rng.randrange(256)


def _overwrite(found: bytearray, at: int, rng: Random) -> None:
    wild = rng.choice(WILD_BYTES)
    found[at : at + len(wild)] = wild


def _insert(found: bytearray, at: int, rng: Random) -> None:
    found[at:at] = rng.randbytes(rng.choice([1, 2, 8]))


def _remove(found: bytearray, at: int, rng: Random) -> None:
    del found[at : at + rng.choice([1, 2, 8, 64])]


def _repeat(found: bytearray, at: int, rng: Random) -> None:
    found[at:at] = found[at : at + rng.choice([4, 16, 64])]


def _cut(found: bytearray, at: int, rng: Random) -> None:
    if rng.random() < 0.3:
        del found[at:]


CHANGES = (_flip, _set, _overwrite, _insert, _remove, _repeat, _cut)


def of_text(data: bytes, rng: Random) -> bytes:
    """Move, repeat and remove what lies between separators, or change bytes."""
    if rng.random() < 0.3 or not data:
        return of_bytes(data, rng)
    separator = bytes([rng.choice(SEPARATORS)])
    parts = data.split(separator)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(len(parts))
        what = rng.randrange(5)
        if what == 0:
            parts[at] = rng.choice(elements.WILD_TEXTS)
        elif what == 1:
            parts.insert(at, parts[rng.randrange(len(parts))])
        elif what == 2 and len(parts) > 1:
            del parts[at]
        elif what == 3:
            other = rng.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        else:
            parts[at] = of_bytes(parts[at], rng)
    return separator.join(parts)


def of_dataset(data: bytes, rng: Random) -> bytes:
    """Change elements, or, now and then and where there are none, bytes."""
    if rng.random() < 0.8:
        changed = elements.mutated(data, rng)
        if changed is not None:
            return changed
    return of_bytes(data, rng)


def behind(first: int, mutate: Mutate) -> Mutate:
    """Mutate what stands behind so many first bytes, which choose a variant."""

    def change(data: bytes, rng: Random) -> bytes:
        head, rest = data[:first], data[first:]
        if rng.random() < 0.1:
            head = rng.randbytes(first)
        return head + mutate(rest, rng)

    return change
