"""The orders of an ORU: what was asked (OBR), seen (OBX), on which specimen (SPM).

Where and when a specimen was taken is said in many places; all are looked at.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import hl7

from dicom_node.findings import Laterality
from dicom_node.segments import field as field_of
from dicom_node.segments import name, plain, words, words_of
from dicom_node.vocabulary import Vocabulary

OBX_NAME, OBX_VALUE, OBX_DATE = 3, 5, 14
OBR_SERVICE, OBR_DATE, OBR_SPECIMEN = 4, 7, 15
SPM_SITE, SPM_MODIFIER, SPM_COLLECTED = 8, 9, 17
DAY_DIGITS: Final = 8
LATERALITY: Final = frozenset(
    {"laterality", "side", "seite", "lateralität", "20228-3^ln"}
)


@dataclass(slots=True)
class Order:
    """One OBR; each OBX with the specimen (SPM) that stands before it, if any."""

    request: hl7.Segment | None = None
    observations: list[tuple[hl7.Segment, hl7.Segment | None]] = field(
        default_factory=list
    )
    specimens: list[hl7.Segment] = field(default_factory=list)


def orders_of(segments: Sequence[hl7.Segment]) -> list[Order]:
    """Return the orders of a message, a first one for what stands before any OBR."""
    orders = [Order()]
    for segment in segments:
        kind = name(segment)
        if kind == "OBR":
            orders.append(Order(segment))
        elif kind == "SPM":
            orders[-1].specimens.append(segment)
        elif kind == "OBX":
            specimens = orders[-1].specimens
            latest = specimens[-1] if specimens else None
            orders[-1].observations.append((segment, latest))
    return orders


def order_sides(order: Order, vocabulary: Vocabulary) -> frozenset[Laterality]:
    """Return the sides that the order names, or an observation of its laterality."""
    found = set(words_of(order.request, OBR_SERVICE))
    if order.request is not None:
        for specimen in field_of(order.request, OBR_SPECIMEN):
            for component in specimen[3:5]:  # body site and its modifier
                found |= words(tuple((part,) for part in component))
    for segment, _ in order.observations:
        if words_of(segment, 3) & LATERALITY:
            found |= words_of(segment, OBX_VALUE)
    return sides_of(found, vocabulary)


def specimen_sides(
    specimens: Iterable[hl7.Segment], vocabulary: Vocabulary
) -> frozenset[Laterality]:
    """Return the sides that specimens name as site or its modifier."""
    found: set[str] = set()
    for one in specimens:
        found |= words_of(one, SPM_SITE) | words_of(one, SPM_MODIFIER)
    return sides_of(found, vocabulary)


def sides_of(found: Iterable[str], vocabulary: Vocabulary) -> frozenset[Laterality]:
    """Return the sides that words in normal form name."""
    return frozenset(vocabulary.sides[one] for one in found if one in vocabulary.sides)


def days_of(
    segment: hl7.Segment,
    request: hl7.Segment | None,
    specimens: Sequence[hl7.Segment],
) -> frozenset[date]:
    """Return the day of collection: of the specimen, else order, else observation."""
    places = [
        [(one, SPM_COLLECTED) for one in specimens],
        [(request, OBR_DATE)] if request is not None else [],
        [(segment, OBX_DATE)],
    ]
    for tier in places:
        days = {day for one, number in tier if (day := _day(plain(one, number)))}
        if days:
            return frozenset(days)
    return frozenset()


def _day(text: str) -> date | None:
    digits = text[:DAY_DIGITS]
    if len(digits) != DAY_DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None
