"""The conformance statement says what the code does."""

from pathlib import Path

import pytest
from pydicom.sr.coding import Code

from dicom_node import contexts
from dicom_node.envelope import CHARACTER_SETS
from dicom_node.findings import ParkReason
from dicom_node.own import SCHEME
from dicom_node.report import codes

STATEMENT = (Path(codes.__file__).parents[1] / "CONFORMANCE.md").read_text("utf-8")


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


@pytest.mark.parametrize("code", private_codes(), ids=lambda code: code.value)
def test_every_private_code_is_published_with_its_meaning(code):
    assert f"| {code.value} | {code.meaning} |" in STATEMENT


@pytest.mark.parametrize(
    "uid", [*contexts.IMAGES, *contexts.SEGMENTATIONS, *contexts.DOCUMENTS]
)
def test_every_accepted_sop_class_is_listed(uid):
    assert f"| {uid} |" in STATEMENT


@pytest.mark.parametrize("reason", list(ParkReason))
def test_every_reason_to_park_a_result_is_published(reason):
    assert f"`{reason}`" in STATEMENT


@pytest.mark.parametrize("charset", [one for one in CHARACTER_SETS if one])
def test_every_character_set_of_hl7_is_published(charset):
    row = next(line for line in STATEMENT.splitlines() if line.startswith("| MSH-18"))
    assert charset in row
