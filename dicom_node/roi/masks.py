"""Boxes around what is set in a mask, in whole pixels."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from dicom_node.roi.shapes import Box

Mask: TypeAlias = NDArray[np.bool_]
WholeBox: TypeAlias = tuple[int, int, int, int]
"""(x0, y0, x1, y1): the first pixel, and the one after the last."""


APART_MM: Final = 10.0
"""Parts of one mark that are nearer to each other are one lesion."""

MAX_PARTS: Final = 200

MAX_RUNS: Final = 20_000
"""Runs of set pixels; noise has more, a drawing fewer."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How many pixels are set, and the box around them."""

    pixels: int
    box: WholeBox


def extents(labels: NDArray[np.integer]) -> dict[int, Extent]:
    """Return the extent of each value but 0 in an image (rows, columns)."""
    ys, xs = np.nonzero(labels)
    if not len(xs):
        return {}
    values = labels[ys, xs]
    order = np.argsort(values, kind="stable")
    values, xs, ys = values[order], xs[order], ys[order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    counts = np.diff(np.append(starts, len(values)))
    edges = zip(
        values[starts].tolist(),
        counts.tolist(),
        np.minimum.reduceat(xs, starts).tolist(),
        np.minimum.reduceat(ys, starts).tolist(),
        (np.maximum.reduceat(xs, starts) + 1).tolist(),
        (np.maximum.reduceat(ys, starts) + 1).tolist(),
        strict=True,
    )
    return {value: Extent(count, (a, b, c, d)) for value, count, a, b, c, d in edges}


def components(mask: Mask, *, diagonal: bool) -> NDArray[np.int32] | None:
    """Number the connected parts of a mask (rows, columns) from 1; 0 is not set.

    Args:
        mask: Any size.
        diagonal: Pixels that touch at a corner are connected, too.

    Returns:
        None when it has more runs of set pixels than any drawing.
    """
    runs = _runs(mask)
    if len(runs) > MAX_RUNS:
        return None
    parents = list(range(len(runs)))
    for one, other in _touching(runs, reach=1 if diagonal else 0):
        _join(parents, one, other)
    labels = np.zeros(mask.shape, dtype=np.int32)
    numbers: dict[int, int] = {}
    for index, (row, start, stop) in enumerate(runs):
        root = _root(parents, index)
        labels[row, start:stop] = numbers.setdefault(root, len(numbers) + 1)
    return labels


def boxes_of_parts(mask: Mask, apart: float) -> list[WholeBox]:
    """Return a box around each group of parts of a mask (rows, columns).

    Args:
        mask: With something set.
        apart: Pixels between the boxes of two parts from which on they are two
            groups. What has too many parts to tell apart is one group.
    """
    labels = components(mask, diagonal=True)
    boxes = [] if labels is None else [one.box for one in extents(labels).values()]
    if not 1 <= len(boxes) <= MAX_PARTS:
        return [one.box for one in extents(mask.astype(np.uint8)).values()]
    return [
        (int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in grouped(boxes, apart)
    ]


def grouped(boxes: Iterable[Box], apart: float) -> list[Box]:
    """Return boxes around groups of boxes that lie nearer than `apart` to another."""
    groups: list[Box] = []
    for box in boxes:
        joined, merged = box, True
        while merged:
            near = [one for one in groups if _gap(one, joined) < apart]
            merged = bool(near)
            groups = [one for one in groups if one not in near]
            joined = _around([joined, *near])
        groups.append(joined)
    return sorted(groups)


def _gap(one: Box, other: Box) -> float:
    across = max(one[0], other[0]) - min(one[2], other[2])
    down = max(one[1], other[1]) - min(one[3], other[3])
    return max(across, down)


def _around(boxes: Sequence[Box]) -> Box:
    x0s, y0s, x1s, y1s = zip(*boxes, strict=True)
    return min(x0s), min(y0s), max(x1s), max(y1s)


def _runs(mask: Mask) -> list[tuple[int, int, int]]:
    """Return (row, first, one after the last) of each run along a row, in order."""
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    stops = np.nonzero(steps == -1)[1]
    if len(rows) > MAX_RUNS:
        return [(0, 0, 0)] * (MAX_RUNS + 1)
    return list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))


def _touching(
    runs: list[tuple[int, int, int]], reach: int
) -> Iterator[tuple[int, int]]:
    """Yield pairs of runs in neighbouring rows that touch."""
    above = 0
    for index, (row, start, stop) in enumerate(runs):
        while runs[above][0] < row - 1 or (
            runs[above][0] == row - 1 and runs[above][2] + reach <= start
        ):
            above += 1
        other = above
        while runs[other][0] == row - 1 and runs[other][1] < stop + reach:
            yield index, other
            other += 1


def _root(parents: list[int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index


def _join(parents: list[int], one: int, other: int) -> None:
    first, second = _root(parents, one), _root(parents, other)
    parents[max(first, second)] = min(first, second)
