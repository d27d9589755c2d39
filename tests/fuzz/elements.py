"""Explicit VR Little Endian as a tree of lists, and what can be done to it.

pydicom refuses to write much of what this writes, and takes a hundred times as long.
"""

import math
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

LONG = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN"})
LONG |= {b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
MAX_DEPTH = 60

NUMBERS = {
    b"FD": ("<d", 8),
    b"FL": ("<f", 4),
    b"SL": ("<i", 4),
    b"SS": ("<h", 2),
    b"UL": ("<I", 4),
    b"US": ("<H", 2),
}
VRS = [*NUMBERS, *LONG, b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO"]
VRS += [b"LT", b"PN", b"SH", b"ST", b"TM", b"UI", b"??", b"\0\0"]
WILD_REALS = [
    math.nan,
    math.inf,
    -math.inf,
    1e300,
    -1e300,
    1e-320,
    0.0,
    -0.0,
    1e9,
    -1.0,
]
WILD_WHOLES = [0, 1, -1, 2, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31)]
WILD_TEXTS = [
    b"",
    b"\\",
    b"\\\\\\\\",
    b"nan",
    b"NaN\\inf",
    b"1e999",
    b"-1e-999",
    b"9" * 400,
    b"1.2.3",
    b"../../etc",
    b"\0\0",
    b"\xff\xfe\x80",
    b"\x1b$B\x1b(J",
    b"^^^^=^^=",
    "½ ١٢٣ ﬁ".encode(),
    b"20261399",
    b"999999.999999999",
    b"A" * 70_000,
    b"MONOCHROME2",
    b"POLYLINE",
    b"SCOORD",
    b"PIXEL",
]

Element = list[Any]
"""[group, element, VR, bytes or a list of items], an item being a list of elements."""


def parse(data: bytes) -> list[Element]:
    """Read a data set; what cannot be read raises ValueError or struct.error."""
    found, at = _parse(data, 0, len(data), 0)
    if at != len(data):
        raise ValueError("bytes are left")
    return found


def _parse(data: bytes, at: int, end: int, depth: int) -> tuple[list[Element], int]:
    found: list[Element] = []
    if depth > MAX_DEPTH:
        raise ValueError("too deep")
    while at < end:
        group, number, vr, length = struct.unpack_from("<HH2sH", data, at)
        if (group, number) == (0xFFFE, ITEM_END):
            return found, at + 8
        at += 8
        if vr in LONG:
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
        if vr == b"SQ":
            items, at = _items(data, at, length, depth)
            found.append([group, number, vr, items])
            continue
        if length == UNDEFINED or at + length > end:
            raise ValueError("no length")
        found.append([group, number, vr, data[at : at + length]])
        at += length
    return found, at


def _items(
    data: bytes, at: int, length: int, depth: int
) -> tuple[list[list[Element]], int]:
    items = []
    end = len(data) if length == UNDEFINED else at + length
    while at < end:
        group, number, size = struct.unpack_from("<HHI", data, at)
        at += 8
        if group != 0xFFFE or number not in {ITEM, SEQUENCE_END}:
            raise ValueError("no item")
        if number == SEQUENCE_END:
            break
        until = len(data) if size == UNDEFINED else at + size
        item, at = _parse(data, at, until, depth + 1)
        items.append(item)
    return items, at


def encode(elements: list[Element], *, undefined: bool = False) -> bytes:
    """Write a data set, its sequences with or without lengths."""
    parts = []
    for group, number, vr, content in elements:
        value = content
        if isinstance(content, list):
            value = b"".join(_item(one, undefined=undefined) for one in content)
        head = struct.pack("<HH2s", group, number, vr)
        if vr not in LONG:
            value = value[:65534]
            parts.append(head + struct.pack("<H", len(value)) + value)
        elif undefined and isinstance(content, list):
            end = struct.pack("<HHI", 0xFFFE, SEQUENCE_END, 0)
            parts.append(head + struct.pack("<HI", 0, UNDEFINED) + value + end)
        else:
            parts.append(head + struct.pack("<HI", 0, len(value)) + value)
    return b"".join(parts)


def _item(elements: list[Element], *, undefined: bool) -> bytes:
    value = encode(elements, undefined=undefined)
    if undefined:
        end = struct.pack("<HHI", 0xFFFE, ITEM_END, 0)
        return struct.pack("<HHI", 0xFFFE, ITEM, UNDEFINED) + value + end
    return struct.pack("<HHI", 0xFFFE, ITEM, len(value)) + value


def places(elements: list[Element]) -> Iterator[tuple[list[Element], int]]:
    """Yield where each element stands, at every depth."""
    for at, element in enumerate(elements):
        yield elements, at
        if isinstance(element[3], list):
            for item in element[3]:
                yield from places(item)


def _drop(where: list[Element], at: int, rng: Random) -> None:
    del where[at]


def _double(where: list[Element], at: int, rng: Random) -> None:
    element = where[at]
    if isinstance(element[3], list) and element[3] and rng.random() < 0.7:
        element[3] = element[3] * rng.choice([2, 3, 50])
    else:
        where.insert(at, list(element))


def _retype(where: list[Element], at: int, rng: Random) -> None:
    element = where[at]
    was = element[3]
    element[2] = rng.choice(VRS)
    if isinstance(was, list) and element[2] != b"SQ":
        element[3] = rng.choice(WILD_TEXTS) if rng.random() < 0.5 else b"\0" * 8
    elif not isinstance(was, list) and element[2] == b"SQ":
        element[3] = rng.choice([[], [[]], [[[0x8, 0x100, b"SH", was[:64]]]]])


def _nest(where: list[Element], at: int, rng: Random) -> None:
    element = where[at]
    for _ in range(rng.choice([1, 2, 5, 30])):
        element = [*element[:2], b"SQ", [[element]]]
    where[at] = element


def _empty(where: list[Element], at: int, rng: Random) -> None:
    where[at][3] = [] if isinstance(where[at][3], list) else b""


def _renumber(where: list[Element], at: int, rng: Random) -> None:
    near = rng.choice([1, -1, 2, 16])
    where[at][1] = (where[at][1] + near) % 65536
    if rng.random() < 0.3:
        where[at][0] = rng.choice([0x8, 0x9, 0x10, 0x28, 0x3006, 0x5200, 0x7FE0])


def _privately(where: list[Element], at: int, rng: Random) -> None:
    value = rng.randbytes(rng.choice([0, 1, 8, 300]))
    where.insert(
        at, [rng.choice([9, 0x19, 0x29, 0x7FE1]), 0x10, rng.choice(VRS), value]
    )
    if where[at][2] == b"SQ":
        where[at][3] = [[]]


def _wild(where: list[Element], at: int, rng: Random) -> None:
    element = where[at]
    if isinstance(element[3], list):
        rng.shuffle(element[3])
    elif element[2] in NUMBERS:
        element[3] = _with_wild_number(element[3], *NUMBERS[element[2]], rng)
    elif element[2] in {b"DS", b"IS"}:
        parts = element[3].split(b"\\")
        parts[rng.randrange(len(parts))] = str(_number(rng)).encode()
        element[3] = b"\\".join(parts)
    else:
        element[3] = rng.choice(WILD_TEXTS)


def _number(rng: Random) -> float:
    if rng.random() < 0.5:
        return rng.choice([*WILD_REALS, *WILD_WHOLES])
    return rng.choice([rng.uniform(-200, 200), float(rng.randrange(300))])


def _with_wild_number(value: bytes, form: str, size: int, rng: Random) -> bytes:
    number = _number(rng)
    try:
        packed = struct.pack(form, number if form in {"<d", "<f"} else int(number))
    except (OverflowError, ValueError, struct.error):
        packed = b"\xff" * size
    count = max(1, len(value) // size)
    at = rng.randrange(count + (rng.random() < 0.1)) * size
    return value[:at] + packed + value[at + size :]


def _cut(where: list[Element], at: int, rng: Random) -> None:
    content = where[at][3]
    if content:
        where[at][3] = content[: rng.randrange(len(content))]


def _swap(where: list[Element], at: int, rng: Random) -> None:
    other = rng.randrange(len(where))
    where[at][3], where[other][3] = where[other][3], where[at][3]
    where[at][2], where[other][2] = where[other][2], where[at][2]


Operation = Callable[[list[Element], int, Random], None]
OPERATIONS: tuple[Operation, ...] = (
    *(_wild, _wild, _wild, _drop, _double, _retype, _nest, _empty),
    *(_renumber, _privately, _cut, _swap),
)


def mutated(data: bytes, rng: Random, times: int = 0) -> bytes | None:
    """Change the elements of a data set; None when it cannot be read as elements."""
    try:
        tree = parse(data)
    except (ValueError, struct.error):
        return None
    for _ in range(times or rng.choice([1, 1, 1, 2, 3, 8])):
        where = list(places(tree))
        if not where:
            break
        rng.choice(OPERATIONS)(*rng.choice(where), rng)
    try:
        return encode(tree, undefined=rng.random() < 0.3)
    except RecursionError:
        return None
