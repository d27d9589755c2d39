"""A cohort from a folder of DICOM studies with marks and a table."""

import csv
import json

import pytest
import torch
from click.testing import CliRunner
from pydicom import dcmread

from training import cohort, snapshot
from training.cli import main
from training.phantom import writer


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    out = tmp_path_factory.mktemp("hospital") / "phantom"
    list(writer.write(writer.Order(cases=6, seed=5, slices=1), out))
    return out


@pytest.fixture
def rows(phantom):
    with (phantom / "cohort.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def write_table(tmp_path):
    def write(rows, *columns, delimiter=","):
        path = tmp_path / "table.csv"
        with path.open("w", newline="") as stream:
            table = csv.DictWriter(
                stream, columns, extrasaction="ignore", delimiter=delimiter
            )
            table.writeheader()
            table.writerows(rows)
        return path

    return write


@pytest.fixture
def build(phantom, tmp_path):
    def run(table, *options):
        out = tmp_path / "snapshot"
        done = CliRunner().invoke(
            main,
            [
                "cohort",
                "build",
                "--dicom",
                str(phantom),
                "--table",
                str(table),
                "--out",
                str(out),
                *options,
            ],
        )
        return done, out

    return run


KEYS = ("study_uid", "laterality", "sln", "nsln", "size_cm", "age", "subtype")


def test_the_slices_are_those_that_the_reader_marked(phantom, rows, write_table, build):
    done, out = build(write_table(rows, *KEYS))
    assert done.exit_code == 0, done.output
    built = snapshot.load(out)
    by_study = {row.study_uid: i for i, row in enumerate(built.rows)}
    expected = cohort.read(phantom)
    looks = [cohort.look(phantom, row) for row in expected]

    for i, row in enumerate(expected):
        one = built.rows[at := by_study[row.study_uid]]
        assert torch.equal(built.crops.crops[at], looks[i].crop)
        assert (one.sln, one.nsln, one.size_cm) == (row.sln, row.nsln, row.size_cm)
        assert (one.laterality, one.sop_instance_uid) == (
            row.laterality,
            row.sop_instance_uid,
        )


def test_patient_ids_are_nowhere(phantom, rows, write_table, build):
    for row in rows:
        row["patient_id"] = row["patient_key"]
    done, out = build(write_table(rows, "patient_id", "sln"), "--key", "patient_id")

    assert done.exit_code == 0, done.output
    assert len(snapshot.load(out)) == 6
    for path in out.rglob("*"):
        assert b"PHANTOM-5" not in (path.read_bytes() if path.is_file() else b"")
        assert b"PHANTOM" not in path.name.encode()


def test_labels_without_a_case_are_an_error_before_anything_is_done(
    rows, write_table, build
):
    rows[2]["study_uid"] = "1.2.3"
    done, out = build(write_table(rows, *KEYS))

    assert done.exit_code == 1
    assert "line 4: study_uid: labels without a case" in done.output
    assert not out.exists()


def test_what_is_left_out_is_counted_with_its_reason(rows, write_table, build):
    rows[2]["study_uid"] = "1.2.3"
    rows[0]["laterality"] = {"L": "R", "R": "L"}[rows[0]["laterality"]]
    done, out = build(write_table(rows, *KEYS), "--skip-missing")

    assert done.exit_code == 0, done.output
    shown = CliRunner().invoke(main, ["cohort", "show", str(out), "--json"])
    assert shown.exit_code == 0, repr(shown.exception)
    chart = json.loads(shown.stdout)["flowchart"]
    assert chart["excluded"] == {"no_images": 1, "no_labels": 1, "no_mark_on_side": 1}
    assert (chart["screened"], chart["included"]) == (7, 4)


def test_a_study_that_the_service_would_hold_is_left_out_for_the_same_reason(
    phantom, rows, write_table, build
):
    mark = phantom / rows[1]["case_id"] / "roi.dcm"
    kept = mark.read_bytes()
    mark.unlink()
    try:
        done, out = build(write_table(rows, *KEYS))
    finally:
        mark.write_bytes(kept)

    assert done.exit_code == 0, done.output
    assert [one.reason for one in snapshot.load(out).exclusions] == ["no_roi"]


def test_the_same_key_gives_the_same_snapshot(rows, write_table, build, tmp_path):
    table = write_table(rows, *KEYS, delimiter=";")
    first, out = build(table)
    before = snapshot.load(out).id
    out.rename(tmp_path / "first")
    build(table)

    assert first.exit_code == 0
    assert snapshot.load(out).id == before
    (tmp_path / "site.key").unlink()
    out.rename(tmp_path / "second")
    build(table)
    assert snapshot.load(out).id != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study_uid": ""}, "line 2: study_uid: is empty"),
        ({"sln": "2"}, "line 2: sln: must be 0, 1 or unknown"),
        ({"age": "old"}, "line 2: age: must be a number of years"),
    ],
)
def test_a_wrong_row_is_named(rows, write_table, build, change, said):
    rows[0] |= change
    done, _ = build(write_table(rows, *KEYS))
    assert done.exit_code == 1
    assert said in done.output


def test_two_rows_of_one_side_are_refused(rows, write_table, build):
    done, _ = build(write_table([*rows, rows[0]], *KEYS))
    assert "lines 2, 8: laterality: rows of one study need a side" in done.output


def test_slices_of_a_snapshot_name_nobody(rows, write_table, build):
    _, out = build(write_table(rows, *KEYS))
    for path in (out / "slices").iterdir():
        image = dcmread(path)
        assert image.PatientIdentityRemoved == "YES"
        assert not image.PatientBirthDate
        assert not image.StudyDate
        assert "SeriesDescription" not in image
