"""The conformance statement says what the code does."""

from pathlib import Path

import pytest
from pydicom.sr.coding import Code

from dicom_node import contexts
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
    "uid", [*contexts.IMAGES, *contexts.DOCUMENTS, contexts.COMMITMENT]
)
def test_every_accepted_sop_class_is_listed(uid):
    assert f"| {uid} |" in STATEMENT
