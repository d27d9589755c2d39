"""Results leave as a table: whole, typed, with what belongs to every number."""

import csv
import io

import pytest
from click.testing import CliRunner
from pyarrow import parquet

from dicom_node import ledger
from dicom_node.db import now
from tests import dicom_objects
from worker import outcomes
from worker.cli import main
from worker.export import COLUMNS
from worker.tasks.analysis import analyze


@pytest.fixture
def run(bench):
    def call(*arguments, code=0):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        done = CliRunner().invoke(main, ["results", "export", *arguments, *data_dir])
        assert done.exit_code == code, done.output
        return done

    return call


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_says_what_the_ledger_says(bench, study, run):
    (row,) = read(run().stdout)
    (result,) = bench.results(study)
    assert list(row) == list(COLUMNS)
    assert float(row["sln_probability"]) == result.stages[0].probability
    assert float(row["sln_threshold"]) == result.stages[0].threshold
    assert row["sln_model"] == result.stages[0].model
    assert row["nsln_probability"] == ""
    assert row["research_use_only"] == "True"
    assert row["created_at"].endswith("Z")


def test_no_column_names_a_patient(bench, study, run):
    text = run().stdout
    for marker in ("Marker", "MARKER-PID-1", "19700203"):
        assert marker not in text
    assert dicom_objects.PATIENT not in text


def test_parquet_holds_the_same_with_types(study, run, tmp_path):
    path = tmp_path / "results.parquet"
    run("--out", str(path))
    table = parquet.read_table(path).to_pylist()
    (row,) = read(run().stdout)
    assert table[0]["sln_probability"] == float(row["sln_probability"])
    assert table[0]["newest"] is True
    assert table[0]["created_at"].tzinfo is not None
    assert table[0]["nsln_probability"] is None


def test_superseded_results_only_on_demand(bench, study, source, run):
    with bench.sessions.begin() as session:
        ledger.requeue(session, study, now(), "again")
        outcomes.mark_stale(session, study)
    analyze(study, bench.site, source)
    assert [row["version"] for row in read(run().stdout)] == ["2"]
    rows = read(run("--all-versions").stdout)
    assert [(row["version"], row["newest"]) for row in rows] == [
        ("1", "False"),
        ("2", "True"),
    ]


def test_days_narrow(study, run):
    assert read(run("--until", "2001-01-01").stdout) == []
    assert read(run("--since", "2999-01-01").stdout) == []


def test_another_ending_and_an_unwritable_place_are_refused(study, run, tmp_path):
    run("--out", str(tmp_path / "results.xlsx"), code=2)
    done = run("--out", str(tmp_path / "none" / "results.csv"), code=1)
    assert "name another file" in done.stderr
    assert list(tmp_path.glob(".results*")) == []
