"""The gate before sending: our own conformance check of every encoded object.

It reads the bytes again as a peer would and trusts nothing of what made them. An
object with a fault is not sent, and neither is anything else of its study.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Final, TypeAlias

from pydicom import Dataset, dcmread
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.attributes import PARSE_ERRORS, number, text
from dicom_node.findings import Document
from dicom_node.own import SCHEME, is_own
from dicom_node.report import codes
from dicom_node.report.claims import false_claims
from dicom_node.report.modules import MODULES, Type
from dicom_node.report.reference import every_item
from dicom_node.silence import silence
from dicom_node.study import is_valid_uid

CHARACTER_SET: Final = "ISO_IR 192"
CODEC: Final = "utf-8"
TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
MAX_MEANING: Final = 64
MAX_CODE: Final = 16
CODE_SEQUENCES: Final = "CodeSequence"
IDENTITY: Final = (
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyInstanceUID",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
)
"""Attributes by which an archive files an object; ours must be the source's."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an object must agree with: its source, cleaned, and its derived UIDs."""

    evidence: Dataset
    series_uid: str
    instance_uid: str


@dataclass(frozen=True, slots=True)
class _Reading:
    """An object as a peer reads it: the data set, and with it every item below."""

    dataset: Dataset
    parts: tuple[Dataset, ...]
    document: Document


Rule: TypeAlias = Callable[[_Reading], Iterator[str]]


def faults(document: Document, origin: Origin | None = None) -> tuple[str, ...]:
    """Name every fault of an encoded object; none means that it may be sent.

    Args:
        document: The frozen bytes, and what is said of them.
        origin: Where it came from; None for what cannot know it any more, such as a
            variant for another archive. Then identity and derivation go unchecked.

    Returns:
        Phrases without a value of the patient's.
    """
    try:
        with silence():
            dataset = dcmread(BytesIO(document.content))
            found = list(_encoding(dataset, document))  # first: later rules decode
            reading = _Reading(dataset, tuple(every_item(dataset)), document)
            for rule in RULES:
                found.extend(rule(reading))
            if origin is not None:
                found.extend(_origin(reading, origin))
    except PARSE_ERRORS as error:
        return (f"it cannot be read again ({type(error).__name__})",)
    return tuple(found)


def _encoding(dataset: Dataset, document: Document) -> Iterator[str]:
    """Check the text as bytes: pydicom would put a mark in place of what is wrong."""
    if hashlib.sha256(document.content).hexdigest() != document.sha256:
        yield "its digest is another"
    if text(dataset, "SpecificCharacterSet") != CHARACTER_SET:
        yield f"SpecificCharacterSet is not {CHARACTER_SET}"
    for tag, value in _raw_text(dataset):
        try:
            value.decode(CODEC)
        except UnicodeDecodeError:
            yield f"the text of {tag} is not {CHARACTER_SET}"


def _raw_text(dataset: Dataset) -> Iterator[tuple[BaseTag, bytes]]:
    """Walk the text as it was encoded, before pydicom decodes it."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if element.VR == "SQ":
            for item in dataset[tag].value:
                yield from _raw_text(item)
        elif element.VR in TEXT_VRS and isinstance(element.value, bytes):
            yield tag, element.value


def _names(reading: _Reading) -> Iterator[str]:
    """File meta information, data set and outbox call the object the same."""
    dataset, document = reading.dataset, reading.document
    meta = dataset.file_meta
    if text(meta, "TransferSyntaxUID") != ExplicitVRLittleEndian:
        yield "its transfer syntax is not Explicit VR Little Endian"
    for said, expected in (
        (text(meta, "MediaStorageSOPClassUID"), document.sop_class_uid),
        (text(dataset, "SOPClassUID"), document.sop_class_uid),
        (text(meta, "MediaStorageSOPInstanceUID"), document.sop_instance_uid),
        (text(dataset, "SOPInstanceUID"), document.sop_instance_uid),
    ):
        if said != expected:
            yield "file meta information, data set and outbox name different objects"


def _attributes(reading: _Reading) -> Iterator[str]:
    """Check presence and type of what the modules of the IOD demand."""
    dataset, document = reading.dataset, reading.document
    module = MODULES.get(document.kind)
    if module is None or document.sop_class_uid not in module.sop_classes:
        yield f"{document.kind} is no kind of document with this SOP class"
        return
    for keyword, kind in module.attributes.items():
        if keyword not in dataset:
            yield f"{keyword} (type {kind}) is missing"
        elif kind is Type.VALUED and dataset[keyword].is_empty:
            yield f"{keyword} (type {kind}) is empty"
    for keyword, terms in module.terms.items():
        if text(dataset, keyword) not in terms:
            yield f"{keyword} is not {' or '.join(sorted(terms))}"
    if module.pixels is not None:
        yield from _pixels(dataset, *module.pixels)


def _pixels(dataset: Dataset, keyword: str, bytes_each: int) -> Iterator[str]:
    sizes = [number(dataset, name) or 0 for name in ("Rows", "Columns")]
    needed = sizes[0] * sizes[1] * bytes_each
    if len(dataset.get(keyword) or b"") != needed + needed % 2:  # of even length
        yield f"{keyword} does not fill Rows and Columns"


def _uids(reading: _Reading) -> Iterator[str]:
    for item in reading.parts:
        for element in item:
            values = element.value if element.VM > 1 else [element.value]
            if element.VR == "UI" and not all(is_valid_uid(str(one)) for one in values):
                yield f"{element.keyword} is not a UID"


def _private(reading: _Reading) -> Iterator[str]:
    tags = (tag for item in reading.parts for tag in item.keys())  # noqa: SIM118 - iteration would parse each value
    if any(tag.is_private for tag in tags):
        yield "it has private attributes"


def _marks(reading: _Reading) -> Iterator[str]:
    """Whoever meets the object again can tell whose it is, and what it is for."""
    dataset = reading.dataset
    schemes = dataset.get("CodingSchemeIdentificationSequence") or ()
    if not any(text(one, "CodingSchemeDesignator") == SCHEME for one in schemes):
        yield f"it does not declare the coding scheme {SCHEME}"
    if not is_own(dataset) or text(dataset, "ManufacturerModelName") == "":
        yield "it does not carry our mark, so that it could start an analysis again"
    if text(dataset, "ContentQualification") != "RESEARCH":
        yield "ContentQualification is not RESEARCH"
    if not text(dataset, "SeriesDescription").startswith("RESEARCH"):
        yield "SeriesDescription does not begin with RESEARCH"


def _codes(reading: _Reading) -> Iterator[str]:
    for item in reading.parts:
        for element in item:
            if element.VR == "SQ" and element.keyword.endswith(CODE_SEQUENCES):
                for code in element.value:
                    yield from _code(code)


def _code(code: Dataset) -> Iterator[str]:
    value, meaning = text(code, "CodeValue"), text(code, "CodeMeaning")
    scheme = text(code, "CodingSchemeDesignator")
    if not (value or text(code, "LongCodeValue")) or not (scheme and meaning):
        yield "a code lacks its value, scheme or meaning"
    if len(meaning) > MAX_MEANING or len(value) > MAX_CODE:
        yield "a code or its meaning is too long"
    if scheme == SCHEME and codes.PUBLISHED.get(value) != meaning:
        yield "a private code is not as the conformance statement publishes it"


def _references(reading: _Reading) -> Iterator[str]:
    """What an object points at is among what it declares to be made of."""
    dataset = reading.dataset
    declared = {
        text(item, "ReferencedSOPInstanceUID")
        for keyword in EVIDENCE
        for item in _below(dataset.get(keyword) or ())
        if "ReferencedSOPInstanceUID" in item
    }
    pointed = {
        text(item, "ReferencedSOPInstanceUID")
        for keyword in POINTERS
        for item in _below(dataset.get(keyword) or ())
        if "ReferencedSOPInstanceUID" in item
    }
    if not pointed:
        yield "it does not point at the analysed image"
    if pointed - declared:
        yield "it points at an object that is not among its evidence"


EVIDENCE: Final = (
    "CurrentRequestedProcedureEvidenceSequence",
    "PertinentOtherEvidenceSequence",
    "ReferencedSeriesSequence",
    "SourceImageSequence",
)
POINTERS: Final = (
    "ContentSequence",
    "GraphicAnnotationSequence",
    "PerFrameFunctionalGroupsSequence",
    "SourceImageSequence",
)


def _claims(reading: _Reading) -> Iterator[str]:
    if reading.document.kind == "SR":
        yield from false_claims(reading.dataset)


RULES: Final[tuple[Rule, ...]] = (
    _names,
    _attributes,
    _uids,
    _private,
    _marks,
    _codes,
    _references,
    _claims,
)


def _origin(reading: _Reading, origin: Origin) -> Iterator[str]:
    """Check that the object is filed where its source is, under its derived UIDs."""
    dataset = reading.dataset
    for keyword in IDENTITY:
        if text(dataset, keyword) != text(origin.evidence, keyword):
            yield f"{keyword} is not the source's"
    if text(dataset, "SeriesInstanceUID") != origin.series_uid:
        yield "SeriesInstanceUID is not the one that follows from its case"
    if text(dataset, "SOPInstanceUID") != origin.instance_uid:
        yield "SOPInstanceUID is not the one that follows from its result"
    image = text(origin.evidence, "SOPInstanceUID")
    named = {text(item, "ReferencedSOPInstanceUID") for item in reading.parts}
    if image not in named:
        yield "it does not name the analysed image"


def _below(items: Iterable[Dataset]) -> Iterator[Dataset]:
    for item in items:
        yield from every_item(item)
