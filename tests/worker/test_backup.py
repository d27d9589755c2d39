"""A running installation is copied, lost, and put back somewhere else."""

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from dicom_node import db, outbox
from dicom_node.audit import HEAD_FILE
from dicom_node.db import now
from dicom_node.settings import load, patient_secret
from dicom_node.spool import Spool
from tests.postgres import binaries
from worker.cli import main
from worker.settings import WorkerSettings


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request, monkeypatch) -> str | None:
    if request.param == "sqlite":
        return None
    monkeypatch.setenv("PATH", str(binaries()), prepend=":")
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def elsewhere(tmp_path, database_url, request) -> WorkerSettings:
    """Another host: an empty folder, and an empty database where there is a server."""
    url = database_url and request.getfixturevalue("postgres").create()
    return load(WorkerSettings, data_dir=tmp_path / "elsewhere", database_url=url)


def call(settings: WorkerSettings, *arguments: object):
    database = (
        ("--database-url", settings.database_url) if settings.database_url else ()
    )
    flags = ("--data-dir", str(settings.data_dir), *database)
    return CliRunner().invoke(main, [*map(str, arguments), *flags])


def shown(settings: WorkerSettings, *arguments: object):
    done = call(settings, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture
def sent(bench, study):
    """One of the documents of the study has been sent, the others wait."""
    with bench.sessions.begin() as session:
        (one,) = outbox.claim(
            session, "PACS@127.0.0.1:9", timedelta(minutes=1), now(), 1
        )
        outbox.sent(session, one, 0, now(), one.sop_instance_uid)
    return one


@pytest.fixture
def copied(bench, sent, tmp_path, monkeypatch) -> Path:
    """The backup, after which the installation is lost."""
    monkeypatch.setenv("SENTINODE_MODELS_DIR", str(bench.site.settings.models))
    patient_secret(bench.site.settings)
    done = call(bench.site.settings, "backup", "--out", tmp_path / "backup")
    assert done.exit_code == 0, done.output
    monkeypatch.delenv("SENTINODE_MODELS_DIR")
    return tmp_path / "backup"


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_restored_elsewhere_is_what_was_there(bench, study, copied, elsewhere):
    before = bench.site.settings
    was = [
        shown(before, "results", "show", study),
        shown(before, "studies", "show", study),
        shown(before, "deliveries", "list"),
    ]
    spool, secret = files(before.spool), patient_secret(before)
    bench.sessions.kw["bind"].dispose()
    shutil.rmtree(before.data_dir)

    restored = shown(elsewhere, "restore", copied)

    assert restored["files"] > len(spool)
    assert was == [
        shown(elsewhere, "results", "show", study),
        shown(elsewhere, "studies", "show", study),
        shown(elsewhere, "deliveries", "list"),
    ]
    assert files(elsewhere.spool) == spool
    assert patient_secret(elsewhere) == secret
    assert shown(elsewhere, "models", "list")


def test_the_audit_trail_holds_after_a_restore(bench, sent, tmp_path, elsewhere):
    call(bench.site.settings, "queue", "pause", "delivery", "--why", "an entry")
    call(bench.site.settings, "backup", "--out", tmp_path / "backup")
    call(elsewhere, "restore", tmp_path / "backup")
    assert (elsewhere.data_dir / HEAD_FILE).is_file()
    done = call(elsewhere, "audit", "verify")
    assert done.exit_code == 0, done.output


def test_a_backup_is_checked_without_an_installation(copied, monkeypatch):
    monkeypatch.delenv("SENTINODE_DATA_DIR", raising=False)
    whole = CliRunner().invoke(main, ["restore", str(copied), "--check"])
    nowhere = CliRunner().invoke(main, ["restore", str(copied)])

    assert (whole.exit_code, nowhere.exit_code) == (0, 2)
    assert "is whole" in whole.stdout


def test_what_was_sent_before_a_restore_is_not_sent_again(sent, copied, elsewhere):
    call(elsewhere, "restore", copied)
    engine = db.connect(elsewhere.database)
    with db.writing(engine).begin() as session:
        waiting = outbox.claim(
            session,
            sent.destination,
            timedelta(minutes=1),
            now() + timedelta(hours=1),
            99,
        )
        for one in waiting:  # the very bytes that were frozen
            Spool(elsewhere.spool).verify(one.path, one.sha256)
    engine.dispose()

    assert waiting
    assert sent.sop_instance_uid not in {one.sop_instance_uid for one in waiting}


def test_doctor_finds_database_disk_and_kept_files_in_order_after_a_restore(
    copied, elsewhere
):
    call(elsewhere, "restore", copied)
    checks = {
        one["name"]: one
        for one in json.loads(call(elsewhere, "doctor", "--json").stdout)["checks"]
    }
    for name in ("database", "disk", "kept files", "clock"):
        assert checks[name]["ok"], checks[name]


def test_a_backup_with_a_changed_file_is_refused_and_nothing_is_written(
    copied, elsewhere
):
    victim = next((copied / "data" / "spool" / "documents").rglob("*.dcm"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")

    done = call(elsewhere, "restore", copied)

    assert done.exit_code == 1
    assert victim.name in done.output
    assert not elsewhere.data_dir.exists()
    assert call(elsewhere, "restore", copied, "--check").exit_code == 1


def test_a_backup_that_was_not_finished_is_refused(copied, elsewhere):
    (copied / "manifest.json").unlink()
    done = call(elsewhere, "restore", copied)
    assert done.exit_code == 1
    assert "no whole backup" in done.output


def test_nothing_is_restored_over_an_installation(bench, copied):
    done = call(bench.site.settings, "restore", copied)
    assert done.exit_code == 4
    assert "not empty" in done.output


def test_a_backup_never_goes_into_a_folder_with_something_in_it(bench, copied):
    assert call(bench.site.settings, "backup", "--out", copied).exit_code == 4


def test_a_backup_is_for_its_owner_alone_and_names_the_secrets_it_lacks(
    bench, copied, tmp_path, monkeypatch
):
    secret = tmp_path / "key"
    secret.write_text("0123456789abcdef")
    monkeypatch.setenv("SENTINODE_PATIENT_KEY_SECRET_FILE", str(secret))
    done = shown(bench.site.settings, "backup", "--out", tmp_path / "second")
    assert done["secrets"] == ["patient_key_secret_file"]
    assert (tmp_path / "second").stat().st_mode & 0o077 == 0
    text = (tmp_path / "second" / "manifest.json").read_text()
    assert "0123456789abcdef" not in text
