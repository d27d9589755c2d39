"""The fields of HL7 v2 segments: repetitions of components of subcomponents.

python-hl7 splits the message; escape sequences are read here, because the library logs
the text of a field whose escapes it cannot read.
"""

import re
from collections.abc import Iterator, Sequence

import hl7

from dicom_node.envelope import IN_ERROR, SEQUENCE_ERROR, RefusedError
from dicom_node.vocabulary import normal

Component = tuple[str, ...]
Repetition = tuple[Component, ...]


def split(text: str) -> list[hl7.Segment]:
    """Return the segments of a message; line feeds end a segment too.

    Raises:
        RefusedError: AE: the message cannot be split.
    """
    lines = (line.strip(" \t\0") for line in re.split(r"[\r\n]+", text))
    joined = "\r".join(line for line in lines if line)
    try:
        return list(hl7.parse(joined))
    except (hl7.HL7Exception, ValueError, IndexError, AssertionError):
        # What the library raises may quote the message.
        why = "the message cannot be split into segments"
        raise RefusedError(IN_ERROR, SEQUENCE_ERROR, why) from None


def name(segment: hl7.Segment) -> str:
    """Return PID, OBR, OBX ..."""
    return str(segment[0]).strip().upper()


def words_of(segment: hl7.Segment | None, number: int) -> frozenset[str]:
    """Return every text and CODE^SYSTEM of a field, in normal form."""
    if segment is None:
        return frozenset()
    return frozenset(word for one in field(segment, number) for word in words(one))


def words(repetition: Repetition) -> frozenset[str]:
    """Return a coded element's texts and its CODE^SYSTEM, in normal form."""
    parts = [*(text_of(one) for one in repetition[:6]), *[""] * 6]
    found = {parts[1], parts[4]}
    for code, system in ((parts[0], parts[2]), (parts[3], parts[5])):
        found.add(f"{code}^{system}" if code and system else code)
    return frozenset(normal(word) for word in found if word)


def plain(segment: hl7.Segment, number: int) -> str:
    """Return the first component of a field, "" when there is none."""
    for repetition in field(segment, number):
        return repetition[0][0].strip()
    return ""


def text_of(component: Component) -> str:
    """Return a component with its subcomponents joined again."""
    return "&".join(component).strip()


def field(segment: hl7.Segment, number: int) -> tuple[Repetition, ...]:
    """Return a field as repetitions of components of subcomponents, unescaped."""
    if number >= len(segment):
        return ()
    return tuple(
        tuple(tuple(_subcomponents(one, segment)) for one in _parts(repetition))
        for repetition in segment[number]
        if str(repetition) not in {"", '""'}
    )


def _parts(repetition: hl7.Repetition | str) -> Sequence[hl7.Component | str]:
    return repetition if isinstance(repetition, hl7.Repetition) else [repetition]


def _subcomponents(
    component: hl7.Component | str, segment: hl7.Segment
) -> Iterator[str]:
    parts = component if isinstance(component, hl7.Component) else [component]
    for part in parts or [""]:
        yield _unescaped(str(part), segment.esc, segment.separators)


def _unescaped(text: str, escape: str, separators: str) -> str:
    """Replace escape sequences; highlighting and unknown ones are left out."""
    if escape not in text:
        return text
    # python-hl7 has them as segment, field, repetition, component, subcomponent.
    known = dict(zip("FRST", separators[1:5], strict=True))
    known |= {"E": escape, ".br": " ", ".sp": " "}
    mark = re.escape(escape)
    return re.sub(
        f"{mark}([^{mark}]*){mark}",
        lambda found: known.get(found[1]) or _hexadecimal(found[1]),
        text,
    )


def _hexadecimal(sequence: str) -> str:
    if not sequence.startswith("X"):
        return ""
    try:
        return bytes.fromhex(sequence[1:]).decode("iso8859-1")
    except ValueError:
        return ""
