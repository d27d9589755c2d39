"""Two hosts, one object store: what one wrote the other reads, whole or not at all."""

import hashlib
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dicom_node import kept
from dicom_node.bucket import Address
from dicom_node.errors import SettingsError, SpoolFullError, UnreadableObjectError
from dicom_node.settings import NodeSettings, load, patient_secret
from dicom_node.shared_spool import IDLE, IN_USE, spool_of, trim
from dicom_node.spool import INSTANCES, KEPT, Encoded, Outcome, Spool

MR = "1.2.840.10008.5.1.4.1.1.4"
LITTLE = "1.2.840.10008.1.2.1"


def encoded(dataset: bytes, sop: str = "1.2.3.4") -> Encoded:
    return Encoded("1.2.3", sop, MR, LITTLE, "MODALITY", dataset)


@pytest.fixture
def hosts(object_store, tmp_path) -> tuple[Spool, Spool]:
    """Two hosts on one store, below a prefix that no other test uses."""
    prefix = uuid.uuid4().hex
    return tuple(
        spool_of(
            load(
                NodeSettings,
                data_dir=tmp_path / name,
                store_url=f"s3://sentinode/{prefix}",
                store_endpoint=object_store.endpoint,
                store_credentials_file=object_store.folder / "credentials",
            )
        )
        for name in ("one", "two")
    )


def test_an_instance_that_one_host_wrote_is_read_on_another(hosts):
    here, there = hosts
    written = here.write_instance(encoded(b"pixels" * 1000))
    read = there.describe(written.path)
    path = there.fetch(written.path, written.sha256)

    assert written.outcome is Outcome.NEW
    assert not here.absolute(written.path).exists()
    assert (read.sha256, read.size) == (written.sha256, written.size)
    assert path.read_bytes().endswith(b"pixels")
    assert abs(read.received_at - written.received_at) < timedelta(seconds=5)
    assert [*here.iter_files(INSTANCES)] == [written.path]


def test_the_first_of_one_uid_stays_whichever_host_it_came_to(hosts):
    here, there = hosts
    first = here.write_instance(encoded(b"first"))
    again = there.write_instance(encoded(b"first"))
    other = there.write_instance(encoded(b"other"))
    apart = there.quarantine(encoded(b"other"))

    assert again.outcome is Outcome.SAME
    assert other.outcome is Outcome.DIFFERS
    assert other.sha256 == first.sha256
    assert here.describe(apart.path).sha256 == hashlib.sha256(b"other").hexdigest()


def test_of_two_that_write_one_uid_at_once_one_wins(hosts):
    for number in range(10):
        contents = [encoded(f"{host}".encode(), f"1.2.{number}") for host in range(2)]
        with ThreadPoolExecutor(2) as pool:
            writers = (host.write_instance for host in hosts)
            found = [*pool.map(lambda write, one: write(one), writers, contents)]
        outcomes = sorted(one.outcome.name for one in found)
        assert outcomes == ["DIFFERS", "NEW"]
        assert len({one.sha256 for one in found}) == 1


def test_documents_and_kept_files_go_through_the_store(hosts):
    here, there = hosts
    content = b"a report"
    sha256 = hashlib.sha256(content).hexdigest()
    document = here.write_document(sha256, content)
    instance = here.write_instance(encoded(b"slice"))
    kept.keep_crop(here, sha256, content)
    kept.keep_slice(here, instance.sha256, instance.path)
    here.remove([instance.path])

    assert there.read_document(document) == content
    there.verify(document, sha256)
    assert kept.read_crop(there, sha256) == content
    assert kept.check_slice(there, instance.sha256).is_file()
    assert {path for path, _ in kept.files(there)} == {
        kept.crop_path(sha256),
        kept.slice_path(instance.sha256),
    }
    assert there.written_at(instance.path) is None


def test_what_is_removed_is_gone_from_the_store_and_from_the_host(hosts):
    here, there = hosts
    written = here.write_instance(encoded(b"pixels"))
    here.fetch(written.path)
    removed = here.remove([written.path, Path("instances/00/00/none.dcm")])

    assert removed == 1
    assert not here.absolute(written.path).exists()
    with pytest.raises(UnreadableObjectError, match="missing"):
        there.fetch(written.path)


def test_a_damaged_copy_is_brought_anew_and_a_changed_object_is_refused(hosts):
    here, there = hosts
    written = here.write_instance(encoded(b"pixels"))
    copy = there.fetch(written.path)
    copy.write_bytes(copy.read_bytes()[:-1] + b"?")

    assert there.fetch(written.path, written.sha256).read_bytes().endswith(b"pixels")
    with pytest.raises(UnreadableObjectError, match="changed"):
        there.fetch(written.path, "0" * 64)


def test_a_damaged_copy_of_a_document_is_replaced_before_it_is_sent(hosts):
    here, there = hosts
    sha256 = hashlib.sha256(b"a report").hexdigest()
    document = here.write_document(sha256, b"a report")
    there.fetch(document).write_bytes(b"damaged")
    there.verify(document, sha256)
    assert there.fetch(document).read_bytes() == b"a report"


def test_a_store_that_does_not_answer_means_come_back_later(tmp_path):
    spool = spool_of(
        load(
            NodeSettings,
            data_dir=tmp_path,
            store_url="s3://sentinode/x",
            store_endpoint="http://127.0.0.1:9",
        )
    )
    for call in (
        lambda: spool.write_instance(encoded(b"1")),
        lambda: spool.fetch(Path("instances/00/00/1.dcm")),
        lambda: spool.written_at(Path("instances/00/00/1.dcm")),
        lambda: spool.remove([Path("instances/00/00/1.dcm")]),
    ):
        with pytest.raises(SpoolFullError, match="object store cannot be used"):
            call()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_credentials_are_no_part_of_what_is_printed():
    address = Address("s3://bucket", "http://127.0.0.1:9", "key", "secretsecret")
    assert "secretsecret" not in repr(address)


def test_hosts_that_share_a_store_must_share_the_key_of_patients(tmp_path):
    settings = load(NodeSettings, data_dir=tmp_path, store_url="s3://bucket")
    with pytest.raises(SettingsError, match="must share the key"):
        patient_secret(settings)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("url", ["bucket", "file:///tmp", "s3://", "s3://key:x@b/c?d"])
def test_an_address_that_is_no_bucket_is_refused(tmp_path, url):
    with pytest.raises(SettingsError, match="SENTINODE_STORE_URL"):
        load(NodeSettings, data_dir=tmp_path, store_url=url)


def test_a_cache_lets_go_what_is_idle_then_the_oldest_and_never_what_is_in_use(
    tmp_path,
):
    at = datetime.now(UTC)
    ages = {
        "idle": IDLE * 2,
        "old": IN_USE * 3,
        "older": IN_USE * 4,
        "used": IN_USE / 2,
    }
    for name, age in ages.items():
        path = tmp_path / KEPT / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * 10)
        os.utime(path, ((at - age).timestamp(), at.timestamp()))

    def left() -> set[str]:
        return {path.name for path in (tmp_path / KEPT).iterdir()}

    assert trim(tmp_path, 100, at) == 1
    assert left() == {"old", "older", "used"}
    assert trim(tmp_path, 20, at) == 1
    assert left() == {"old", "used"}
    assert trim(tmp_path, 0, at) == 1
    assert left() == {"used"}
