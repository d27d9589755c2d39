"""The same work on PostgreSQL and Redis, as a hospital runs it."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import dicom_objects
from tests.peers import Orthanc, Sentinode, dcmsend, free_port

pytestmark = pytest.mark.e2e


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis server from Debian's packages, password and all."""
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is missing: run `make peers`")
    port = free_port()
    with (tmp_path / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("redis-server", "--port", str(port), "--bind", "127.0.0.1"),
                *("--requirepass", "secret", "--save", "", "--dir", str(tmp_path)),
            ],
            stdout=log,
            stderr=log,
        )
    time.sleep(0.5)
    yield f"redis://:secret@127.0.0.1:{port}/0"
    process.terminate()
    process.wait(10)


def test_postgresql_and_redis_carry_a_study_from_storage_to_report(
    tmp_path: Path, quick_models: Path, postgres_url: str, redis_url: str, write
):
    slices = dicom_objects.fresh_study("production")
    mark = dicom_objects.gsps_rectangle([slices[4]])
    uid = str(slices[0].StudyInstanceUID)
    sentinode = Sentinode(tmp_path / "sentinode", quick_models)
    sentinode.extra = {
        "SENTINODE_DATABASE_URL": postgres_url,
        "SENTINODE_BROKER_URL": redis_url,
    }
    orthanc = Orthanc(tmp_path / "orthanc", sentinode.port).start()
    sentinode.use(str(orthanc), "2")
    sentinode.start()
    try:
        dcmsend(str(sentinode), *(write(one) for one in (*slices, mark)))
        study = sentinode.await_state(uid, "analyzed")
        reports = orthanc.await_instances(uid, "SR")
        doctor = sentinode.json("doctor")
    finally:
        code = sentinode.stop()
        orthanc.stop()

    details = {one["name"]: one["detail"] for one in doctor["checks"]}
    assert code == 0
    assert doctor["ok"]
    assert details["database"].startswith("postgresql")
    assert not (sentinode.folder / "sentinode.db").exists()
    assert not (sentinode.folder / "broker.sock").exists()
    assert study["cases"][0]["laterality"] == "L"
    assert len(reports) == 1
