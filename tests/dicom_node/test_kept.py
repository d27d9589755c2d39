import errno
import hashlib
import os

import pytest

from dicom_node import kept
from dicom_node.errors import SpoolFullError, UnreadableObjectError
from dicom_node.spool import Spool
from tests.dicom_node.test_spool import instance

CROP = b"pixels"
SHA256 = hashlib.sha256(CROP).hexdigest()


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool")


def names(spool: Spool) -> list[str]:
    return sorted(path.as_posix() for path, _ in kept.files(spool))


def test_a_crop_comes_back_as_it_was(spool):
    kept.keep_crop(spool, SHA256, CROP)
    kept.keep_crop(spool, SHA256, CROP)

    assert kept.read_crop(spool, SHA256) == CROP
    assert names(spool) == [f"kept/{SHA256[:2]}/{SHA256}.crop"]
    assert list(spool.root.glob("**/.*.part")) == []


def test_a_crop_under_another_digest_is_refused(spool):
    with pytest.raises(ValueError, match="digest"):
        kept.keep_crop(spool, "0" * 64, CROP)


def test_a_changed_crop_is_noticed(spool):
    kept.keep_crop(spool, SHA256, CROP)
    spool.absolute(kept.crop_path(SHA256)).write_bytes(b"pixelz")

    with pytest.raises(UnreadableObjectError, match="SHA-256"):
        kept.read_crop(spool, SHA256)


def test_a_slice_outlives_its_instance(spool):
    written = spool.write_instance(instance())
    kept.keep_slice(spool, written.sha256, written.path)
    kept.keep_slice(spool, written.sha256, kept.slice_path(written.sha256))
    spool.remove([written.path])

    path = kept.check_slice(spool, written.sha256)
    assert path.is_file()
    assert spool.written_at(written.path) is None
    assert list(spool.root.glob("**/.*.part")) == []


def test_a_volume_without_links_gets_a_copy(spool, monkeypatch):
    written = spool.write_instance(instance())

    def refuse(*_args):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    kept.keep_slice(spool, written.sha256, written.path)

    path = kept.check_slice(spool, written.sha256)
    assert path.stat().st_nlink == 1


def test_a_slice_that_is_not_there_cannot_be_kept(spool):
    with pytest.raises(UnreadableObjectError):
        kept.keep_slice(spool, SHA256, kept.slice_path(SHA256))


def test_a_damaged_slice_is_noticed(spool):
    written = spool.write_instance(instance())
    kept.keep_slice(spool, written.sha256, written.path)
    path = spool.absolute(kept.slice_path(written.sha256))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    with pytest.raises(UnreadableObjectError, match="SHA-256"):
        kept.check_slice(spool, written.sha256)


def test_keeping_again_makes_a_file_young_again(spool):
    """What is in use is not taken for something that a lost analysis left."""
    written = spool.write_instance(instance())
    for _ in range(2):
        kept.keep_crop(spool, SHA256, CROP)
        kept.keep_slice(spool, written.sha256, written.path)
    before = dict(kept.files(spool))
    kept.keep_crop(spool, SHA256, CROP)
    kept.keep_slice(spool, written.sha256, written.path)

    after = dict(kept.files(spool))
    assert all(after[path] >= before[path] for path in before)


def test_a_failing_volume_leaves_nothing_behind(spool, monkeypatch):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    spool.root.mkdir()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SpoolFullError):
        kept.keep_crop(spool, SHA256, CROP)
    assert names(spool) == []
    assert list(spool.root.glob("**/.*.part")) == []


def test_removing_twice_removes_once(spool):
    written = spool.write_instance(instance())

    assert spool.remove([written.path]) == 1
    assert spool.remove([written.path]) == 0
