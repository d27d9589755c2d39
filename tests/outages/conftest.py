"""Brokers and databases that fail on demand, and what the workers' tests have."""

import shutil
from collections.abc import Iterator

import pytest

from tests.dicom_node.conftest import left_sockets  # noqa: F401 - a fixture
from tests.outages.brokers import RABBITMQ, RabbitMq, Redis
from tests.postgres import Postgres, binaries
from tests.worker.conftest import (  # noqa: F401 - fixtures
    bench,
    cascade,
    database_url,
    mark,
    settings,
    slices,
    source,
    study,
)


@pytest.fixture
def redis(tmp_path) -> Iterator[Redis]:
    if shutil.which(Redis.command) is None:
        pytest.fail("redis-server is missing: run `make peers`")
    broker = Redis(tmp_path).start()
    yield broker
    broker.remove()


@pytest.fixture
def rabbit() -> Iterator[RabbitMq]:
    broker = made_rabbit()
    yield broker
    broker.remove()


def made_rabbit(**options: int) -> RabbitMq:
    """Start RabbitMQ, where it is installed."""
    if not RABBITMQ.exists():
        pytest.fail("rabbitmq-server is missing: run `make peers`")
    return RabbitMq(**options).start()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A cluster that a test may stop under everybody's feet."""
    folder = binaries()
    if folder is None:
        pytest.fail("PostgreSQL is missing: run `make peers`")
    cluster = Postgres(folder)
    cluster.start()
    yield cluster
    if cluster.runs:
        cluster.stop()
    cluster.remove()
