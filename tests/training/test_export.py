"""What leaves a site names nobody, and trains the same models."""

import csv
import json
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from pydicom import Dataset, dcmread

from training import snapshot
from training.cli import main
from training.phantom import writer

DCIODVFY = Path(sys.executable).with_name("dciodvfy")
NAME, ID, BIRTH = "Zzyzxova^Quilla", "ID-77-MARKER-31", "19610611"
SECRETS = (b"zzyzxova", b"quilla", b"id-77-marker-31", b"19610611", b"reader^one")


def mark(folder):
    """Put a patient whom nobody could miss into every object of a cohort."""
    for path in folder.rglob("*.dcm"):
        image = dcmread(path)
        image.PatientName, image.PatientID, image.PatientBirthDate = NAME, ID, BIRTH
        image.PatientComments = f"{NAME} called"
        image.InstitutionName = "Quilla Hospital"
        image.SeriesDescription = f"breast {NAME}"
        image.AccessionNumber = "ID-77-MARKER-31"
        block = image.private_block(0x0011, "MAKER", create=True)
        block.add_new(0x01, "LO", f"{NAME} {ID} {BIRTH}")
        if "ManufacturerModelName" in image and "mr-" in path.name:
            image.ManufacturerModelName = "Scanner of Zzyzxova"
        nested = Dataset()
        nested.PatientID = ID
        image.RequestAttributesSequence = [nested]
        image.save_as(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "phantom"
    list(writer.write(writer.Order(cases=5, seed=9, slices=1), out))
    mark(out)
    table = out / "cohort.csv"
    text = table.read_text()
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for i, row in enumerate(rows):
        row["patient_key"] = f"{ID}-{min(i, 3)}"
        row["age"] = 93 if i == 0 else row["age"]
        row["centre"], row["role"] = rows[0]["centre"], rows[0]["role"]
    with table.open("w", newline="") as stream:
        writer_ = csv.DictWriter(stream, fieldnames=text.partition("\n")[0].split(","))
        writer_.writeheader()
        writer_.writerows(rows)
    return out


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "pooled"
    command = ["export", "--cohort", str(folder), "--out", str(out)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    return out


def days_of(folder):
    return {dcmread(path).StudyDate for path in folder.rglob("mr-*.dcm")}


def test_nothing_of_a_patient_is_in_any_byte_or_name(folder, exported):
    dates = {day.encode() for day in days_of(folder)}
    uids = set()
    for path in folder.rglob("mr-*.dcm"):
        image = dcmread(path)
        uids |= {image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID}
    forbidden = {*SECRETS, *dates, *(uid.encode() for uid in uids), b"case-000"}
    for path in exported.rglob("*"):
        content = str(path.relative_to(exported)).lower().encode()
        content += path.read_bytes().lower() if path.is_file() else b""
        assert not [one for one in forbidden if one in content], path


def test_crops_before_and_after_are_the_same_bits(folder, exported):
    before, after = snapshot.load(folder), snapshot.load(exported)
    pixels = {row.pixel_sha256: i for i, row in enumerate(before.rows)}

    assert len(after) == len(before) == 5
    for i, row in enumerate(after.rows):
        at = pixels[row.pixel_sha256]
        assert torch.equal(after.crops.crops[i], before.crops.crops[at])
        assert torch.equal(after.crops.sides[i], before.crops.sides[at])
        assert (row.sln, row.nsln) == (before.rows[at].sln, before.rows[at].nsln)


def test_an_export_is_built_into_a_cohort_elsewhere(exported, tmp_path):
    out = tmp_path / "there"
    paths = ("--dicom", exported, "--table", exported / "cohort.csv", "--out", out)
    done = CliRunner().invoke(main, ["cohort", "build", *map(str, paths)])

    assert done.exit_code == 0, done.output
    built, sent = snapshot.load(out), snapshot.load(exported)
    assert {row.pixel_sha256 for row in built.rows} == {
        row.pixel_sha256 for row in sent.rows
    }
    assert len(built) == 5


def test_marks_refer_to_their_images_and_dates_shift_by_patient(folder, exported):
    rows = snapshot.load(exported).rows
    assert len({row.patient_key for row in rows}) == 4
    for row in rows:
        image = dcmread(exported / row.image)
        report = dcmread((exported / row.image).with_name("roi.dcm"))
        evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
        reference = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == image.SOPInstanceUID
        assert report.StudyInstanceUID == image.StudyInstanceUID == row.study_uid
        assert report.PatientID == image.PatientID == row.patient_key
        assert image.LongitudinalTemporalInformationModified == "MODIFIED"
        assert date.fromisoformat(image.StudyDate) < date(2024, 1, 2)


def test_the_oldest_are_not_told_apart_and_only_known_columns_leave(exported):
    with (exported / "cohort.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert max(int(row["age"]) for row in rows) == 89
    assert "pixel_sha256" not in rows[0]


def test_the_manifest_says_what_was_removed(exported):
    manifest = json.loads((exported / "export.json").read_text())

    assert manifest["profile"].startswith("113100")
    assert [one[:6] for one in manifest["options"]] == ["113107", "113109"]
    removed = manifest["attributes_removed"]
    assert removed["PatientComments"] == removed["private"] // 2 == 5
    assert list(manifest["to_check"].values()) == [5]


def test_exported_images_conform(exported):
    for path in exported.rglob("image.dcm"):
        done = subprocess.run(
            [DCIODVFY, str(path)], capture_output=True, text=True, check=False
        )
        errors = [line for line in done.stderr.splitlines() if "Error" in line]
        assert not errors


def test_the_same_key_gives_the_same_export(folder, exported, tmp_path):
    shutil.copy(exported.with_name("site.key"), tmp_path / "site.key")
    command = ["export", "--cohort", str(folder), "--out", str(tmp_path / "again")]
    assert CliRunner().invoke(main, command).exit_code == 0
    assert (tmp_path / "again" / "cohort.csv").read_bytes() == (
        exported / "cohort.csv"
    ).read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "burned_in_annotation"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "secondary_image"),
        ({"PatientName": "LESION"}, "identifier_left"),
    ],
)
def test_what_may_show_a_name_stays(folder, tmp_path, change, reason):
    copy = shutil.copytree(folder, tmp_path / "copy")
    row = snapshot.load(copy).rows[0]
    image = dcmread(copy / row.image)
    for keyword, value in change.items():
        setattr(image, keyword, value)
    image.save_as(copy / row.image)
    command = ["export", "--cohort", str(copy), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(main, command)

    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["excluded_from_export"] == {reason: 1}
    assert manifest["cases"] == 4


def test_a_snapshot_is_exported_without_dates(folder, tmp_path):
    snapshot.freeze(folder, tmp_path / "frozen")
    command = ["export", "--cohort", str(tmp_path / "frozen")]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path / "out")])

    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "out" / "export.json").read_text())
    assert manifest["dates"] == "removed"
    assert {row.pixel_sha256 for row in snapshot.load(tmp_path / "out").rows} == {
        row.pixel_sha256 for row in snapshot.load(folder).rows
    }
