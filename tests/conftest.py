"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from dicom_node import schema
from tests.markers import listening, nobody_is_named  # noqa: F401 - they are used by all
from tests.postgres import Postgres, binaries
from tests.quick_models import write_models
from tests.weed import ObjectStore


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real breast MRI; where it is named, it must be there."""
    folder = os.environ.get("SENTINODE_REAL_DATA")
    if not folder:
        pytest.skip("SENTINODE_REAL_DATA does not name a folder of real breast MRI")
    path = Path(folder)
    assert path.is_dir(), f"SENTINODE_REAL_DATA is {path}, which is not a folder"
    return path


@pytest.fixture(scope="session")
def postgres():
    """A PostgreSQL cluster with one migrated database, named `migrated`."""
    folder = binaries()
    if folder is None:
        assert not os.environ.get("CI"), "CI needs PostgreSQL"
        pytest.skip("PostgreSQL is not installed: run `make peers`")
    cluster = Postgres(folder)
    cluster.start()
    url = cluster.create()
    schema.upgrade(url)
    cluster.migrated = sa.make_url(url).database
    yield cluster
    cluster.stop()
    cluster.remove()


@pytest.fixture
def postgres_url(postgres) -> str:
    """An empty database on PostgreSQL."""
    return postgres.create()


@pytest.fixture(scope="session")
def quick_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model of each stage."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def object_store():
    """A real object store with an empty bucket."""
    store = ObjectStore()
    try:
        yield store.start()
    finally:
        store.remove()
