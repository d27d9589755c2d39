"""A short form of `make chaos`: every point three times, on seeds that stay."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.points import POINTS

pytestmark = pytest.mark.e2e

RUNS = 3
SEED = 20


@pytest.fixture(scope="module")
def matrix(tmp_path_factory) -> tuple[list[dict], str]:
    """All runs of the short matrix, and what it printed."""
    document = tmp_path_factory.mktemp("matrix") / "runs.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos", "--json", str(document)),
            # One lane of each database: what runs beside it has time limits of its own.
            *("--runs", str(RUNS), "--seed", str(SEED), "--lanes", "1"),
        ],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert document.exists(), said
    return json.loads(document.read_text()), said


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_a_kill_loses_nothing_and_does_nothing_twice(matrix, point):
    runs, said = matrix
    made = [run for run in runs if run["job"]["point"] == point.name]
    assert len(made) == RUNS, said
    assert [run for run in made if run["failed"]] == [], said
    assert all(run["fired"] for run in made)
    assert {run["job"]["database"] for run in made} == set(point.databases)
