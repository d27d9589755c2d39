"""A message that comes again while its task still runs changes nothing."""

import os
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa
from celery import Celery

from dicom_node import ledger, outbox, schema
from dicom_node.study import StudyState
from tests import monitored
from tests.outages.conftest import made_rabbit
from tests.peers import wait_until
from worker import queues
from worker.app import create_app
from worker.tables import ResultRow

pytestmark = pytest.mark.e2e


@pytest.fixture
def database_url(postgres_url):
    """A database in which a test can hold up the end of an analysis."""
    schema.upgrade(postgres_url)
    return postgres_url


@contextmanager
def analysing(bench, broker, folder):
    """Run the analysis worker of a site on a broker; yield its output so far."""
    settings, log = bench.site.settings, folder / "worker.log"
    command = (
        *(sys.executable, "-m", "celery", "-A", "tests.outages.impatient", "worker"),
        *("--without-gossip", "--without-mingle", "--queues", queues.ANALYSIS),
        *("--include", "worker.tasks.analysis", "--concurrency", "2"),
    )
    environment = {
        **os.environ,
        "SENTINODE_BROKER_URL": broker.url,
        "SENTINODE_DATABASE_URL": settings.database,
        "SENTINODE_DATA_DIR": str(settings.data_dir),
        "SENTINODE_MODELS_DIR": str(settings.models),
        "SENTINODE_PACS": str(settings.pacs[0]),
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        yield log.read_text
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def held_up(bench):
    """Keep every analysis from committing its result: it runs on meanwhile."""
    with bench.sessions.kw["bind"].begin() as connection:
        table = ResultRow.__tablename__
        connection.execute(sa.text(f"LOCK TABLE {table} IN SHARE MODE"))
        yield


def runs(text: str) -> Counter:
    lines = [line.split() for line in text.splitlines()]
    return Counter(line[1] for line in lines if line[:1] == ["RUN"])


def claims(bench, uid) -> int:
    with bench.sessions() as session:
        return [one.what for one in ledger.events(session, uid)].count("analyzing")


def deliveries(bench) -> list[str]:
    with bench.sessions() as session:
        return sorted(one.kind for one in outbox.deliveries(session))


def test_a_message_that_redis_delivers_again_starts_no_second_analysis(
    bench, redis, slices, mark, tmp_path
):
    monitored.activate_models(bench)
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    with analysing(bench, redis, tmp_path) as output:
        with held_up(bench):
            send(redis, uid)
            wait_until(lambda: max(runs(output()).values(), default=0) > 1, "again", 60)
            assert bench.study(uid).state is StudyState.ANALYZING
        wait_until(lambda: bench.study(uid).state is StudyState.ANALYZED, "the end")
    assert claims(bench, uid) == 1
    assert len(bench.results(uid)) == 1
    assert deliveries(bench) == ["SC", "SR"]


def test_a_message_that_rabbitmq_takes_back_starts_no_second_analysis(
    bench, slices, mark, tmp_path
):
    """RabbitMQ closes the channel of a worker that is silent beyond its patience.

    The worker ends what it does, then itself; the next one finds the work done.
    """
    monitored.activate_models(bench)
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    broker = made_rabbit(patience=2_000, tick=1_000)
    try:
        with analysing(bench, broker, tmp_path) as output:
            with held_up(bench):
                send(broker, uid)
                wait_until(lambda: "PRECONDITION_FAILED" in output(), "its end", 60)
                assert bench.study(uid).state is StudyState.ANALYZING
            wait_until(lambda: bench.study(uid).state is StudyState.ANALYZED, "the end")
        with analysing(bench, broker, tmp_path) as output:
            wait_until(lambda: runs(output()), "the message again")
    finally:
        broker.remove()
    assert claims(bench, uid) == 1
    assert len(bench.results(uid)) == 1
    assert deliveries(bench) == ["SC", "SR"]


def test_redis_waits_longer_for_a_message_than_any_task_may_take(settings):
    slow = settings.model_copy(update={"analysis_time_limit": timedelta(hours=3)})
    assert settings.broker_options == {"visibility_timeout": 3600}
    assert create_app(slow).conf.broker_transport_options == {
        "visibility_timeout": 6 * 3600
    }


def send(broker, uid: str) -> None:
    app = Celery(broker=broker.url)
    app.send_task(queues.ANALYZE, args=[uid], queue=queues.ANALYSIS)
