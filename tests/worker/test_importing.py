"""Files and media are taken in as if they had been sent, whatever lies on them."""

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy.exc import OperationalError

from dicom_node import audit, ledger, media
from dicom_node.errors import UnreadableObjectError
from dicom_node.study import StudyState, StudyUid
from tests import dicom_objects
from worker.cli import main
from worker.tasks.analysis import analyze


@pytest.fixture
def run(bench):
    def call(*arguments, code=0):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        command = ["import", *map(str, arguments), "--json", *data_dir]
        done = CliRunner().invoke(main, command)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout)

    return call


def write(folder: Path, *datasets) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, dataset in enumerate(datasets):
        dataset.save_as(folder / f"IM{number:04}", enforce_file_format=True)
    return folder


def test_an_imported_study_is_analysed_as_a_sent_one(
    bench, slices, mark, source, run, tmp_path
):
    folder = write(tmp_path / "cd" / "deep", *slices, mark)
    (folder / "readme.txt").write_text("not DICOM")

    found = run(tmp_path / "cd")

    uid = StudyUid(str(slices[0].StudyInstanceUID))
    assert found["counts"] == {"stored": len(slices) + 1, "not DICOM": 1}
    assert found["studies"] == [uid]
    study = bench.study(uid)
    assert (study.state, study.calling_ae) == (StudyState.RECEIVING, "IMPORT")
    bench.queue(uid)
    assert analyze(uid, bench.site, source)


def test_a_second_import_changes_nothing(bench, slices, run, tmp_path):
    folder = write(tmp_path / "cd", *slices)
    run(folder)
    before = bench.study(StudyUid(str(slices[0].StudyInstanceUID)))
    assert run(folder)["counts"] == {"known": len(slices)}
    assert bench.study(before.study_uid).revision == before.revision


def test_other_bytes_under_a_known_uid_are_a_conflict(bench, slices, run, tmp_path):
    run(write(tmp_path / "one", slices[0]))
    slices[0].PixelData = bytes(len(slices[0].PixelData))
    found = run(write(tmp_path / "two", slices[0]))
    assert found["counts"] == {"conflict": 1}


def test_each_study_is_in_the_audit_trail_from_its_first_object_on(
    bench, slices, run, tmp_path
):
    run(write(tmp_path / "cd", *slices, *dicom_objects.fresh_study("beside")))
    with bench.sessions() as session:
        known = {one.study_uid for one in ledger.studies(session)}
        entered = [one.event for one in audit.entries(session)]
    imports = [one for one in entered if one.what == "import"]
    assert len(imports) == 2
    assert {one.study for one in imports} == known


def test_a_study_whose_audit_entry_fails_is_not_taken_in(
    bench, slices, tmp_path, monkeypatch
):
    def full(*_: object) -> None:
        raise OperationalError("insert into audit", {}, Exception("disk is full"))

    folder = write(tmp_path / "cd", *slices)
    monkeypatch.setattr(audit, "record", full)
    data_dir = ("--data-dir", str(bench.site.settings.data_dir))
    done = CliRunner().invoke(main, ["import", str(folder), *data_dir])
    monkeypatch.undo()

    assert done.exit_code == 1
    with bench.sessions() as session:
        assert ledger.studies(session) == []
    again = CliRunner().invoke(main, ["import", str(folder), *data_dir])
    assert again.exit_code == 0
    assert bench.study(StudyUid(str(slices[0].StudyInstanceUID)))


def test_a_dry_run_stores_nothing(bench, slices, run, tmp_path):
    found = run(write(tmp_path / "cd", *slices), "--dry-run")
    assert found["counts"] == {"would be taken in": len(slices)}
    with bench.sessions() as session:
        assert ledger.studies(session) == []


def test_what_could_be_ours_and_is_refused_is_named(slices, run, tmp_path):
    with dicom_objects.lenient():
        slices[0].StudyInstanceUID = "not a uid"
        folder = write(tmp_path / "cd", *slices[:2])
    found = run(folder, code=1)
    assert found["counts"] == {"refused": 1, "stored": 1}
    assert list(found["refused"]) == [str(folder / "IM0000")]


def test_another_sop_class_is_left_out(slices, run, tmp_path):
    slices[0].SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    slices[0].file_meta.MediaStorageSOPClassUID = slices[0].SOPClassUID
    assert run(write(tmp_path / "cd", slices[0]))["counts"] == {"not for us": 1}


def test_a_dicomdir_says_what_is_on_the_medium(slices, run, tmp_path):
    folder = write(tmp_path / "cd" / "DICOM", *slices)
    subprocess.run(
        ["dcmmkdir", "+r", "+I", "DICOM"],
        cwd=tmp_path / "cd",
        check=True,
        capture_output=True,
    )
    other = dicom_objects.fresh_study("beside")
    write(folder / "LATER", *other)  # the DICOMDIR does not know it

    found = run(tmp_path / "cd")

    assert found["counts"] == {"stored": len(slices)}
    assert run(tmp_path / "cd" / "DICOMDIR")["counts"] == {"known": len(slices)}


def test_a_dicomdir_that_leads_outside_is_not_followed(slices, tmp_path):
    write(tmp_path / "elsewhere", slices[0])
    folder = write(tmp_path / "cd" / "DICOM", slices[1])
    subprocess.run(
        ["dcmmkdir", "+r", "+I", "DICOM"],
        cwd=tmp_path / "cd",
        check=True,
        capture_output=True,
    )
    path = tmp_path / "cd" / "DICOMDIR"
    path.write_bytes(path.read_bytes().replace(b"DICOM\\IM0000", b"..\\elsewhere"))
    assert all(one.is_relative_to(folder.resolve()) for one in media.find([path]))


def test_a_damaged_dicomdir_is_an_error(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(b"\x00" * 200)
    with pytest.raises(UnreadableObjectError, match="DICOMDIR"):
        media.find([tmp_path])


def test_real_and_malformed_files_end_in_counts(run, real_data):
    found = run(real_data / "malformed", "--dry-run")
    assert found["files"] == sum(found["counts"].values())
    images = run(real_data / "breast-post-contrast-siemens")
    assert images["counts"].get("stored", 0) > 0
    assert not images["refused"]
