"""The runbook names every reason, with the advice that the status page gives."""

import re
from pathlib import Path

from dicom_node.advice import ADVICE
from dicom_node.study import Reason
from worker.cli import COMMANDS

TEXT = (Path(__file__).parents[2] / "worker" / "OPERATIONS.md").read_text("utf-8")
ROW = re.compile(r"^\| `(\w+)` \| ([\w, ]+) \| (.+) \| (.+) \|$", re.MULTILINE)


def test_every_reason_has_the_one_advice():
    rows = {name: (means, todo) for name, _, means, todo in ROW.findall(TEXT)}
    assert set(rows) == {reason.value for reason in Reason} == set(ADVICE)
    for name, advice in ADVICE.items():
        assert rows[name] == (advice.means, advice.todo), name


def test_every_command_that_is_named_exists():
    named = set(re.findall(r"sentinode (\w+)", TEXT))
    assert named <= set(COMMANDS)


def test_how_to_encrypt_each_store_is_written_down():
    (section,) = re.findall(
        r"## Encryption at rest\n(.*?)(?=\n## |\Z)", TEXT, re.DOTALL
    )
    for word in ("LUKS", "PostgreSQL", "SSE", "backups", "swap", "Kubernetes"):
        assert word in section
