"""`sentinode studies purge`, and what other commands say of it."""

import json

import pytest
from click.testing import CliRunner

from dicom_node import purge
from dicom_node.errors import SettingsError
from dicom_node.settings import load
from worker import queues
from worker.app import create_app
from worker.cli import main
from worker.settings import WorkerSettings
from worker.tasks import dispatch
from worker.tasks.analysis import analyze


@pytest.fixture
def run(bench):
    def call(*arguments: str, stdin: str | None = None):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        return CliRunner().invoke(main, [*arguments, *data_dir], input=stdin)

    return call


@pytest.fixture
def analysed(bench, slices, mark, source):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid


def purged(bench, uid) -> bool:
    with bench.sessions() as session:
        return purge.purged(session, uid) is not None


def test_a_dry_run_says_what_would_go_and_removes_nothing(run, bench, analysed):
    done = run("studies", "purge", analysed, "--dry-run", "--json")

    (one,) = json.loads(done.stdout)
    assert done.exit_code == 0
    assert one["study_uid"] == analysed
    assert one["files"] == 9
    assert one["bytes"] > 9 * 20_000
    assert not one["purged"]
    assert not purged(bench, analysed)


def test_a_purge_asks_first(run, bench, analysed):
    refused = run("studies", "purge", analysed, stdin="n\n")
    before = purged(bench, analysed)
    done = run("studies", "purge", analysed, "--json", stdin="y\n")

    assert refused.exit_code == 1
    assert not before
    assert done.exit_code == 0
    assert json.loads(done.stdout)[0]["purged"]
    assert "Images to purge" in done.stderr
    assert purged(bench, analysed)


def test_by_age_only_what_is_old_enough_goes(run, bench, analysed):
    young = run("studies", "purge", "--older-than", "30", "--yes", "--json")
    named = run("studies", "purge", analysed, "--older-than", "30", "--yes")
    old = run("studies", "purge", "--older-than", "0", "--yes", "--json")
    again = run("studies", "purge", "--older-than", "0", "--yes", "--json")

    assert json.loads(young.stdout) == []
    assert named.exit_code == 4
    assert "long enough" in named.stderr
    assert [one["study_uid"] for one in json.loads(old.stdout)] == [analysed]
    assert json.loads(again.stdout) == []


def test_what_may_not_go_stays_with_everything_named_beside_it(
    run, bench, analysed, slices
):
    bench.receive(_stranger(slices[0]))

    done = run("studies", "purge", analysed, "1.2.3.4.5", "--yes")

    assert done.exit_code == 4
    assert "receiving" in done.stderr
    assert not purged(bench, analysed)


def _stranger(slice_):
    slice_.StudyInstanceUID = "1.2.3.4.5"
    slice_.SOPInstanceUID = "1.2.3.4.5.6"
    slice_.file_meta.MediaStorageSOPInstanceUID = slice_.SOPInstanceUID
    return slice_


@pytest.mark.parametrize(
    ("arguments", "code"),
    [((), 2), (("--older-than", "-1"), 2), (("1.2.3", "--yes"), 3)],
)
def test_wrong_usage_and_unknown_studies(run, arguments, code):
    assert run("studies", "purge", *arguments).exit_code == code


def test_show_says_when_images_went_and_what_is_kept(run, analysed, slices):
    before = json.loads(run("studies", "show", analysed, "--json").stdout)
    run("studies", "purge", analysed, "--yes")
    after = json.loads(run("studies", "show", analysed, "--json").stdout)
    text = run("studies", "show", analysed).stdout
    run("studies", "purge", analysed, "--with-kept", "--yes")
    given_up = json.loads(run("studies", "show", analysed, "--json").stdout)
    result = json.loads(run("results", "show", analysed, "--json").stdout)[0]

    assert before["purged"] is None
    assert after["purged"]["images"] == 9
    assert after["purged"]["at"].endswith("Z")
    assert after["cases"][0]["kept"] == {"crop": True, "slice": True}
    assert "purged" in [one["what"] for one in after["events"]]
    assert "crop, slice" in text
    assert given_up["cases"][0]["kept"] == {"crop": False, "slice": False}
    assert result["kept"]["released_at"]


def test_names_are_found_after_a_purge_too(run, bench, slices, source):
    """No document names the patient here: what is left is the row alone."""
    uid = bench.receive(*slices)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    run("studies", "purge", uid, "--yes")

    shown = json.loads(run("studies", "show", uid, "--phi", "--json").stdout)

    assert shown["patient_id"] == ""


def test_names_come_from_the_document_or_the_kept_slice(run, analysed, slices):
    patient_id = slices[0].PatientID
    run("studies", "purge", analysed, "--yes")

    plain = run("studies", "show", analysed, "--json").stdout
    shown = json.loads(run("studies", "show", analysed, "--phi", "--json").stdout)

    assert patient_id not in plain
    assert shown["patient_id"] == patient_id


def test_a_result_says_what_computed_it(run, analysed):
    result = json.loads(run("results", "show", analysed, "--json").stdout)[0]
    text = run("results", "show", analysed).stdout

    sln, nsln = result["stages"]
    assert result["code_version"]
    assert len(result["kept"]["crop_sha256"]) == 64
    assert len(sln["preprocessing_sha256"]) == 64
    assert sln["batch"] == "1x3x64x64"
    assert sln["torch_version"]
    assert sln["cpu"]
    assert sln["threads"]
    assert nsln["torch_version"] is None
    assert "crop and slice" in text


def test_the_retention_of_a_site_is_swept_by_the_dispatcher(bench, monkeypatch):
    schedule = create_app(bench.site.settings).conf.beat_schedule
    monkeypatch.setenv("SENTINODE_RETENTION_DAYS", "90")
    settings = load(WorkerSettings, data_dir=bench.site.settings.data_dir)

    assert schedule["purge"]["task"] == dispatch.run_purge.name == queues.PURGE
    assert settings.retention is not None
    assert settings.retention.days == 90
    assert bench.site.settings.retention is None


@pytest.mark.parametrize("value", ["0", "-3", "soon"])
def test_a_retention_that_is_no_time_is_refused(tmp_path, monkeypatch, value):
    monkeypatch.setenv("SENTINODE_RETENTION_DAYS", value)

    with pytest.raises(SettingsError, match="SENTINODE_RETENTION_DAYS"):
        load(WorkerSettings, data_dir=tmp_path)
