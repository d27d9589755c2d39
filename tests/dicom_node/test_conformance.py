"""The conformance statement says what the code does, and nothing else."""

import re
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.datadict import dictionary_description
from pydicom.sr.coding import Code
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
)
from pynetdicom import AE

from dicom_node import contexts, intake, part10
from dicom_node.envelope import CHARACTER_SETS
from dicom_node.findings import ParkReason
from dicom_node.own import SCHEME
from dicom_node.report import codes, gsps, modules, pm, sc, sr
from dicom_node.report.summary import RESEARCH_ONLY
from tests.dicom_node.conftest import CALLER
from tests.dicom_node.test_source_defects import documents_of
from tests.dicom_objects import mr_slice

STATEMENT = (Path(codes.__file__).parents[1] / "CONFORMANCE.md").read_text("utf-8")
REFUSED = (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    JPEG2000,
)
CT = "1.2.840.10008.5.1.4.1.1.2"
MAX_CONTEXTS = 120
NOT_WRITTEN = "\N{EN DASH}"


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    level, _, _ = title.partition(" ")
    rest = STATEMENT.split(f"\n{title}", 1)[1]
    return re.split(rf"\n#{{1,{len(level)}}} ", rest, maxsplit=1)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row; headings and rulers are among them."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def received_classes() -> set[str]:
    return {row[1] for row in rows(section("## 1 ")) if row[2:3] == ["yes"]}


def stated_contexts() -> set[tuple[str, str]]:
    """Every pair of abstract and transfer syntax that the statement promises."""
    compressible = {*contexts.IMAGES, *contexts.SEGMENTATIONS}
    images = received_classes() & compressible
    pairs = set()
    for row in rows(section("### 3.2 ")):
        if len(row) == 3 and row[2].startswith("1.2."):
            classes = received_classes() if row[0] == "all" else images
            pairs |= {(uid, row[2]) for uid in classes}
    return pairs


def negotiated(port: int, pairs: list[tuple[str, str]]) -> set[tuple[str, str]]:
    entity = AE(CALLER)
    for abstract, transfer in pairs:
        entity.add_requested_context(abstract, transfer)
    association = entity.associate("127.0.0.1", port, ae_title="SENTINODE")
    assert association.is_established
    accepted = {
        (str(one.abstract_syntax), str(one.transfer_syntax[0]))
        for one in association.accepted_contexts
    }
    association.release()
    return accepted


def test_the_listener_negotiates_what_is_stated_and_nothing_else(listener):
    stated = stated_contexts()
    classes = sorted({abstract for abstract, _ in stated} | {CT})
    syntaxes = sorted({transfer for _, transfer in stated} | {*map(str, REFUSED)})
    asked = [(abstract, transfer) for abstract in classes for transfer in syntaxes]
    accepted: set[tuple[str, str]] = set()
    for start in range(0, len(asked), MAX_CONTEXTS):
        accepted |= negotiated(listener.port, asked[start : start + MAX_CONTEXTS])
    assert accepted == stated
    assert len(stated) == 7 * 8 + 11 * 2


def private_codes() -> list[Code]:
    values = [
        one
        for value in vars(codes).values()
        for one in (value.values() if isinstance(value, dict) else [value])
    ]
    return [
        one
        for one in values
        if isinstance(one, Code) and one.scheme_designator == SCHEME
    ]


def test_every_private_code_is_published_with_its_meaning_and_no_other():
    table = {row[0]: row[1] for row in rows(section("### 7.9 ")) if row[0].isupper()}
    assert table == {code.value: code.meaning for code in private_codes()}
    assert table == codes.PUBLISHED


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> dict[str, Dataset]:
    """One object of each kind, of a source that has all that can be inherited."""
    image = mr_slice(
        IssuerOfPatientID="HOSPITAL",
        TimezoneOffsetFromUTC="+0100",
        PatientAge="050Y",
        PatientIdentityRemoved="YES",
    )
    made = documents_of(image, tmp_path_factory.mktemp("samples"))
    return {one.kind: dcmread(BytesIO(one.content)) for one in made}


COLUMNS = ("SR", "SC", "GSPS", "PM")


def stated_types(kind: str) -> dict[str, str]:
    """The type of each attribute of a kind, by its name in the statement."""
    column = 2 + COLUMNS.index(kind)
    return {
        row[0]: row[column]
        for row in rows(section("### 7.3 "))
        if len(row) == 7 and row[1].startswith("(")
    }


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_attribute_that_is_written_is_listed_with_its_tag(samples, kind):
    types = stated_types(kind)
    for element in samples[kind]:
        name = dictionary_description(element.tag)
        assert types.get(name, NOT_WRITTEN) != NOT_WRITTEN, (
            f"{name} of {kind} is not listed"
        )
        tag = f"({element.tag.group:04X},{element.tag.element:04X})"
        assert f"| {name} | {tag} |" in STATEMENT


@pytest.mark.parametrize("kind", COLUMNS)
def test_what_is_listed_as_always_there_is_there(samples, kind):
    dataset = samples[kind]
    written = {dictionary_description(element.tag): element for element in dataset}
    for name, kind_of_type in stated_types(kind).items():
        if kind_of_type in {"1", "2"}:
            assert name in written, f"{name} of {kind}"
        if kind_of_type == "1":
            assert not written[name].is_empty, f"{name} of {kind}"


@pytest.mark.parametrize("kind", COLUMNS)
def test_the_gate_demands_at_least_what_is_listed_as_mandatory(kind):
    demanded = {
        dictionary_description(keyword): str(kind_of_type)
        for keyword, kind_of_type in modules.MODULES[kind].attributes.items()
    }
    stated = stated_types(kind)
    for name, kind_of_type in stated.items():
        if kind_of_type in {"1", "2"}:
            assert demanded[name] == kind_of_type, f"{name} of {kind}"


@pytest.mark.parametrize("module", [sr, sc, gsps, pm])
def test_every_kind_is_listed_with_its_class_and_series_numbers(samples, module):
    (row,) = (one for one in rows(section("### 7.1 ")) if one[0] == module.KIND)
    assert row[2] == samples[module.KIND].SOPClassUID
    assert row[3] == ", ".join(str(one) for one in module.SERIES_NUMBERS.values())


def test_every_status_of_the_listener_is_listed():
    stated = {row[0] for row in rows(section("### 3.3 ")) if row[0].isalnum()}
    returned = {
        f"{value:04X}"
        for name, value in vars(intake).items()
        if name.isupper() and isinstance(value, int) and value <= 0xFFFF
    }
    assert stated - {"Status"} == returned


def test_who_we_are_is_stated():
    assert part10.IMPLEMENTATION_CLASS_UID in section("## 2 ")
    assert "SENTINODE_" in section("## 2 ")


def test_standard_codes_of_the_tree_are_listed():
    tree = section("### 7.5 ") + section("### 7.8 ") + section("### 7.4 ")
    for code in (
        codes.REPORT_TITLE,
        codes.PROCEDURE,
        codes.DEVICE,
        codes.PERSON,
        codes.READER,
        codes.ARTIFICIAL_INTELLIGENCE,
        codes.LESION,
        codes.BREAST,
        codes.BOUNDED_BY,
        codes.SENTINEL_BIOPSY,
        *codes.RISKS.values(),
        *codes.BIOPSY_RESULTS.values(),
        codes.CLASS_ACTIVATION,
        codes.ACQUISITION,
        codes.PROCESSING,
    ):
        assert code.value in tree, code.meaning


def test_the_parameters_of_an_algorithm_are_listed(samples):
    def walk(item):
        for child in item.get("ContentSequence") or ():
            yield child
            yield from walk(child)

    names = {
        item.TextValue.partition("=")[0]
        for item in walk(samples["SR"])
        if item.ConceptNameCodeSequence[0].CodeValue == "111002"
    }
    assert names
    for name in names:
        assert f"`{name}`" in section("### 7.5 ")


def test_the_statement_says_that_this_is_research():
    assert "research software" in STATEMENT.split("## 1")[0]
    assert RESEARCH_ONLY.startswith("RESEARCH USE ONLY")


@pytest.mark.parametrize("reason", list(ParkReason))
def test_every_reason_to_park_a_result_is_published(reason):
    assert f"`{reason}`" in STATEMENT


@pytest.mark.parametrize("charset", [one for one in CHARACTER_SETS if one])
def test_every_character_set_of_hl7_is_published(charset):
    row = next(line for line in STATEMENT.splitlines() if line.startswith("| MSH-18"))
    assert charset in row
