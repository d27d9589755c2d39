import errno
import hashlib
import os
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_node.errors import SpoolFullError, UnreadableObjectError
from dicom_node.part10 import FileMeta, encode_meta, read_meta
from dicom_node.spool import QUARANTINE, Encoded, Outcome, Spool
from dicom_node.study import SopInstanceUid, StudyUid
from tests.dicom_node.conftest import MR, dataset, encoded

EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool")


def instance(number: int = 1, **changes) -> Encoded:
    made = dataset(number)
    plain = Encoded(
        StudyUid(made.StudyInstanceUID),
        SopInstanceUid(made.SOPInstanceUID),
        MR,
        EXPLICIT,
        "SCANNER",
        encoded(made),
    )
    return replace(plain, **changes)


def files(spool: Spool) -> list[str]:
    return sorted(each.name for each in spool.root.rglob("*") if each.is_file())


def test_an_instance_is_a_part_10_file_that_says_who_sent_it(spool):
    written = spool.write_instance(instance())
    ds = dcmread(spool.absolute(written.path))
    assert ds.PatientID == "MARKER-PID"
    assert ds.file_meta.SourceApplicationEntityTitle == "SCANNER"
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT
    assert written.outcome is Outcome.NEW


def test_names_are_hashes_and_paths_are_relative(spool):
    written = spool.write_instance(instance())
    study = hashlib.sha256(b"1.2.3.4").hexdigest()
    sop = hashlib.sha256(b"1.2.3.4.5.1").hexdigest()
    assert written.path == Path("instances", study[:2], study, f"{sop}.dcm")


def test_a_file_describes_itself_as_it_was_described_when_written(spool):
    written = spool.write_instance(instance())
    assert spool.describe(written.path) == written
    assert written.sha256 == hashlib.sha256(instance().dataset).hexdigest()
    assert abs(written.received_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_the_same_bytes_again_change_nothing(spool):
    first = spool.write_instance(instance())
    second = spool.write_instance(instance(calling_ae="ANOTHER"))
    assert second == replace(first, outcome=Outcome.SAME)
    assert len(files(spool)) == 1


def test_other_bytes_under_a_known_uid_are_not_written(spool):
    first = spool.write_instance(instance())
    other = instance(dataset=instance().dataset + b"\0\0")
    second = spool.write_instance(other)
    assert second == replace(first, outcome=Outcome.DIFFERS)
    assert len(files(spool)) == 1


def test_the_quarantine_keeps_each_differing_object_once(spool):
    other = instance(dataset=instance().dataset + b"\0\0")
    path = spool.quarantine(other).path
    assert spool.quarantine(other).path == path
    spool.quarantine(instance(dataset=instance().dataset + b"\1\1"))
    assert path.parts[0] == "quarantine"
    assert len(list(spool.iter_files(QUARANTINE))) == 2
    assert list(spool.iter_files()) == []


def test_of_several_threads_one_writes_and_the_others_find_it(spool):
    outcomes = []

    def write() -> None:
        outcomes.append(spool.write_instance(instance()).outcome)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Outcome.NEW) == 1
    assert outcomes.count(Outcome.SAME) == 7
    assert len(files(spool)) == 1


def test_a_write_that_fails_leaves_nothing_behind(spool, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolFullError, match="No space left"):
        spool.write_instance(instance())
    assert files(spool) == []


def test_drafts_of_the_dead_are_swept_and_those_of_the_living_are_not(spool):
    written = spool.write_instance(instance())
    folder = spool.absolute(written.path).parent
    dead, living = folder / ".dead.part", folder / ".living.part"
    dead.write_bytes(b"half")
    before = datetime.now(UTC)
    time.sleep(0.05)
    living.hardlink_to(spool.absolute(written.path))  # older than the draft's name
    assert spool.sweep_partial(before) == 1
    assert sorted(files(spool)) == sorted([living.name, written.path.name])
    assert list(spool.iter_files()) == [written.path]


def test_documents_are_frozen_under_their_digest(spool):
    digest = hashlib.sha256(b"report").hexdigest()
    path = spool.write_document(digest, b"report")
    assert spool.write_document(digest, b"report") == path
    assert spool.read_document(path) == b"report"
    spool.verify(path, digest)
    with pytest.raises(ValueError, match="digest"):
        spool.write_document(digest, b"another")


def test_a_document_that_changed_on_disk_is_not_sent(spool):
    digest = hashlib.sha256(b"report").hexdigest()
    path = spool.write_document(digest, b"report")
    spool.absolute(path).chmod(0o600)
    spool.absolute(path).write_bytes(b"rep0rt")
    with pytest.raises(UnreadableObjectError, match="changed"):
        spool.read_document(path)
    with pytest.raises(UnreadableObjectError, match="changed"):
        spool.verify(path, digest)
    spool.absolute(path).unlink()
    with pytest.raises(UnreadableObjectError, match="missing"):
        spool.read_document(path)
    with pytest.raises(UnreadableObjectError, match="missing"):
        spool.verify(path, digest)


@pytest.mark.parametrize("path", ["/etc/passwd", "instances/../../escaped"])
def test_no_path_leads_out_of_the_spool(spool, path):
    with pytest.raises(ValueError, match="relative"):
        spool.absolute(Path(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 128 + b"DICM",
        b"\0" * 200,
        encode_meta(FileMeta("", "", "", ""))[:150],
    ],
)
def test_a_file_that_is_not_ours_is_unreadable(spool, content):
    path = Path("instances/aa/bb/x.dcm")
    spool.absolute(path).parent.mkdir(parents=True)
    spool.absolute(path).write_bytes(content)
    with pytest.raises(UnreadableObjectError):
        spool.describe(path)


@pytest.mark.parametrize("length", [1, 15, 16])
def test_file_meta_is_read_back_whatever_its_lengths(tmp_path, length):
    meta = FileMeta(MR, "1." + "2" * length, EXPLICIT, "A" * length)
    path = tmp_path / "x"
    path.write_bytes(encode_meta(meta) + b"data")
    with path.open("rb") as file:
        assert read_meta(file) == meta
        assert file.read() == b"data"
