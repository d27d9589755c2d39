"""Every line of the threat model names tests, and each of them exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def lines():
    """Rows of the tables of SECURITY.md, without heads and rules."""
    rows = [
        row for row in (ROOT / "SECURITY.md").read_text().splitlines() if row[:1] == "|"
    ]
    return [row for row in rows if not re.match(r"\|(-|.*\| test \|$)", row)]


def defined(path):
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", lines(), ids=lambda row: row.split("|")[1].strip()[:60])
def test_line_of_the_threat_model_names_tests_that_exist(row):
    named = TEST.findall(row)
    assert named, row
    for path, name in named:
        assert name in defined(ROOT / path), f"{path}::{name}"
