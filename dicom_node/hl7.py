"""HL7 v2 results of pathology as values: ORU^R01 in, statements or a refusal out.

    bytes -> header -> segments -> orders (OBR, OBX, SPM) -> one statement for each side

Pure: no socket, no database. What cannot be understood for certain becomes a statement
with a reason to park it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Final

import hl7

from dicom_node import envelope, segments
from dicom_node.envelope import (
    DATA_TYPE_ERROR,
    IN_ERROR,
    REQUIRED_FIELD_MISSING,
    SEQUENCE_ERROR,
    Header,
    RefusedError,
)
from dicom_node.findings import (
    Deposit,
    Laterality,
    ParkReason,
    Slnd,
    deposit_result,
)
from dicom_node.orders import (
    OBR_SERVICE,
    OBX_NAME,
    Order,
    days_of,
    order_sides,
    orders_of,
    sides_of,
    specimen_sides,
)
from dicom_node.segments import Repetition, plain, text_of, words, words_of
from dicom_node.segments import field as field_of
from dicom_node.vocabulary import Meaning, Vocabulary

MAX_IDENTIFIERS: Final = 20
FINAL, CORRECTED = "F", "C"
WITHDRAWING: Final = frozenset({"D", "W"})
CODE: Final = re.compile(r"[A-Za-z0-9.\-]{1,20}")
OBX_VALUE, OBX_STATUS, OBX_SITE, OBR_STATUS = 5, 11, 20, 25


@dataclass(frozen=True, slots=True)
class Identifier:
    """One Patient ID (PID-3) and the names of the authority that assigned it."""

    patient_id: str = field(repr=False)
    authorities: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Statement:
    """What a message says of one side. Without `problem` it is complete.

    `result` is WITHDRAWN when every observation was deleted or was posted as wrong.
    """

    side: Laterality | None
    result: Slnd | None
    deposit: Deposit | None
    performed_on: date | None
    correction: bool
    problem: ParkReason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PathologyMessage:
    """An ORU^R01 that was understood; without statements it is not for us."""

    identifiers: tuple[Identifier, ...]
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class _Observed:
    """One OBX about sentinel nodes; `key` tells observations of one node apart."""

    key: tuple[str, ...]
    sides: frozenset[Laterality]
    status: str
    meaning: Meaning | None
    problem: ParkReason | None
    detail: str
    days: frozenset[date]


def parse(content: bytes, header: Header, vocabulary: Vocabulary) -> PathologyMessage:
    """Read what an ORU^R01 says of the sentinel nodes of each side.

    Args:
        content: One message as it came.
        header: Its header.
        vocabulary: The words of this site, and its rule for isolated tumour cells.

    Raises:
        RefusedError: AE: a preliminary result, no patient, or no readable message.
    """
    parts = segments.split(envelope.decoded(content, header))
    identifiers = _identifiers(parts)
    observed = [
        one for order in orders_of(parts) for one in _observations(order, vocabulary)
    ]
    by_side: dict[Laterality | None, list[_Observed]] = {}
    for one in observed:
        side = next(iter(one.sides)) if len(one.sides) == 1 else None
        by_side.setdefault(side, []).append(one)
    return PathologyMessage(
        identifiers,
        tuple(_statement(side, found) for side, found in by_side.items()),
    )


def _identifiers(parts: Sequence[hl7.Segment]) -> tuple[Identifier, ...]:
    patients = [one for one in parts if segments.name(one) == "PID"]
    if len(patients) > 1:
        why = "the message holds several patients: send one message for each"
        raise RefusedError(IN_ERROR, SEQUENCE_ERROR, why)
    found = tuple(
        Identifier(text_of(one[0]), tuple(filter(None, one[3] if len(one) > 3 else ())))  # noqa: PLR2004 - CX.4, the assigning authority
        for segment in patients
        for one in field_of(segment, 3)
        if text_of(one[0])
    )
    if len(found) > MAX_IDENTIFIERS:
        why = f"PID-3 has more than {MAX_IDENTIFIERS} repetitions"
        raise RefusedError(IN_ERROR, DATA_TYPE_ERROR, why)
    if not found:
        why = "PID-3, the patient identifier, is missing"
        raise RefusedError(IN_ERROR, REQUIRED_FIELD_MISSING, why)
    return found


def _observations(order: Order, vocabulary: Vocabulary) -> list[_Observed]:
    """Return what an order says of sentinel nodes; nothing of other matters."""
    is_ours = bool(words_of(order.request, OBR_SERVICE) & vocabulary.observations)
    names = vocabulary.observations | (vocabulary.answers if is_ours else frozenset())
    stated = order_sides(order, vocabulary)
    found = [
        _observed(order, observation, vocabulary, stated)
        for observation in order.observations
        if words_of(observation[0], OBX_NAME) & names
    ]
    if is_ours and not found:
        why = "the order is of sentinel nodes, and no observation in it is known"
        sides = stated | specimen_sides(order.specimens, vocabulary)
        reason = ParkReason.RESULT_UNKNOWN
        return [_Observed((), sides, FINAL, None, reason, why, frozenset())]
    return found


def _observed(
    order: Order,
    observation: tuple[hl7.Segment, hl7.Segment | None],
    vocabulary: Vocabulary,
    stated: frozenset[Laterality],
) -> _Observed:
    segment, specimen = observation
    status = _status(segment, order.request)
    specimens = [specimen] if specimen is not None else order.specimens
    said, value_sides, unknown = _values(segment, vocabulary)
    meaning, problem, detail = _meaning(said, vocabulary)
    if unknown and status not in WITHDRAWING:
        problem, detail = ParkReason.RESULT_UNKNOWN, unknown
    return _Observed(
        key=_key(segment, specimen),
        sides=(
            stated
            | value_sides
            | sides_of(
                words_of(segment, OBX_SITE) | words_of(segment, OBX_NAME), vocabulary
            )
            | specimen_sides(specimens, vocabulary)
        ),
        status=status,
        meaning=meaning,
        problem=None if status in WITHDRAWING else problem,
        detail=detail,
        days=days_of(segment, order.request, specimens),
    )


def _status(segment: hl7.Segment, request: hl7.Segment | None) -> str:
    """Return F, C, D or W; an order that is corrected corrects its observations."""
    status = plain(segment, OBX_STATUS).upper()
    if status in WITHDRAWING or status == CORRECTED:
        return status
    if status != FINAL:
        said = status if len(status) == 1 and status.isascii() else "missing"
        raise RefusedError(
            IN_ERROR,
            DATA_TYPE_ERROR,
            f"OBX-11 is {said}: only final (F), corrected (C) and withdrawn (D, W) "
            "results are taken",
        )
    corrected = request is not None and plain(request, OBR_STATUS).upper() == CORRECTED
    return CORRECTED if corrected else FINAL


def _values(
    segment: hl7.Segment, vocabulary: Vocabulary
) -> tuple[list[Meaning], frozenset[Laterality], str]:
    """Return what OBX-5 says, the sides it names, and what of it is not known."""
    meanings: list[Meaning] = []
    sides: set[Laterality] = set()
    unknown = ""
    repetitions = field_of(segment, OBX_VALUE)
    for one in repetitions:
        spoken = words(one)
        known = vocabulary.results
        hits = [known[word] for word in spoken if word in known]
        named = sides_of(spoken, vocabulary)
        meanings += hits
        sides |= named
        if not hits and not named:
            unknown = f"OBX-5 holds {_code(one)}, which is not in the table of results"
    if not meanings and not unknown:
        unknown = "OBX-5 holds no result"
    return meanings, frozenset(sides), unknown


def _meaning(
    said: Sequence[Meaning], vocabulary: Vocabulary
) -> tuple[Meaning | None, ParkReason | None, str]:
    results = {one.result for one in said if one.result is not None}
    deposits = {one.deposit for one in said if one.deposit is not None}
    results |= {
        deposit_result(one, itc_is_positive=vocabulary.itc_is_positive)
        for one in deposits
    }
    if not results:
        return None, ParkReason.RESULT_UNKNOWN, "OBX-5 holds no known result"
    if len(results) > 1 or len(deposits) > 1:
        why = "OBX-5 says two things that exclude each other"
        return None, ParkReason.RESULT_CONTRADICTS, why
    return Meaning(results.pop(), deposits.pop() if deposits else None), None, ""


def _statement(side: Laterality | None, found: Sequence[_Observed]) -> Statement:
    """Join the observations of one side: one node with metastasis makes it positive."""
    found = _replaced(found)
    valid = [one for one in found if one.status not in WITHDRAWING]
    days = {day for one in valid or found for day in one.days}
    meaning = _joined(valid)
    problem, detail = _problem(side, found, valid, days)
    return Statement(
        side=side,
        result=meaning.result if valid else Slnd.WITHDRAWN,
        deposit=meaning.deposit,
        performed_on=days.pop() if len(days) == 1 else None,
        correction=any(one.status == CORRECTED for one in found),
        problem=problem,
        detail=detail,
    )


def _problem(
    side: Laterality | None,
    found: Sequence[_Observed],
    valid: Sequence[_Observed],
    days: set[date],
) -> tuple[ParkReason | None, str]:
    """Return the first reason why a statement cannot be taken as it is."""
    unclear = [(one.problem, one.detail) for one in valid if one.problem is not None]
    both = any(one.sides for one in found)
    doubts = (
        *((True, *one) for one in unclear),
        (
            _contradict(found),
            ParkReason.RESULT_CONTRADICTS,
            "one observation is given twice, and the two exclude each other",
        ),
        (
            side is None and both,
            ParkReason.SIDE_CONTRADICTS,
            "the message names both sides for one result",
        ),
        (
            side is None,
            ParkReason.SIDE_UNKNOWN,
            "the message names no side that is known",
        ),
        (
            bool(valid) and len(days) != 1,
            ParkReason.DATE_UNKNOWN,
            "SPM-17, OBR-7 and OBX-14 do not give one day of the dissection",
        ),
    )
    return next(((why, text) for doubt, why, text in doubts if doubt), (None, ""))


def _joined(valid: Sequence[_Observed]) -> Meaning:
    meanings = [one.meaning for one in valid if one.meaning is not None]
    if not meanings or any(one.problem for one in valid):
        return Meaning()
    positive = [one for one in meanings if one.result is Slnd.POSITIVE]
    deposits = {one.deposit for one in positive or meanings}
    largest = next((one for one in Deposit if one in deposits), None)
    return Meaning(Slnd.POSITIVE if positive else Slnd.NEGATIVE, largest)


def _replaced(found: Sequence[_Observed]) -> list[_Observed]:
    """Leave out final observations that the same message corrects further down."""
    corrected: set[tuple[str, ...]] = set()
    kept: list[_Observed] = []
    for one in reversed(found):
        if one.status == FINAL and one.key in corrected:
            continue
        if one.status == CORRECTED:
            corrected.add(one.key)
        kept.append(one)
    return kept[::-1]


def _contradict(found: Sequence[_Observed]) -> bool:
    """Say whether one observation has two results, or is withdrawn after it was given.

    Withdrawn and then given anew is clear: the last word is a result.
    """
    said: dict[tuple[str, ...], Meaning | None] = {}
    for one in found:
        if one.status in WITHDRAWING:
            if one.key in said:
                return True
        elif said.setdefault(one.key, one.meaning) != one.meaning:
            return True
    return False


def _key(segment: hl7.Segment, specimen: hl7.Segment | None) -> tuple[str, ...]:
    which = "" if specimen is None else f"{plain(specimen, 1)}/{plain(specimen, 2)}"
    return (*sorted(words_of(segment, OBX_NAME)), plain(segment, 4), which)


def _code(repetition: Repetition) -> str:
    """Name a code, which helps to extend the table; a text may hold anything."""
    code, _, system = (*(text_of(one) for one in repetition[:3]), "", "", "")[:3]
    if system and CODE.fullmatch(code) and CODE.fullmatch(system):
        return f"the code {code}^{system}"
    return "a text"
