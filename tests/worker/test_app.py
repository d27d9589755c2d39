"""The Celery application: limits, serialisation, and what it must not log."""

import io
import logging

import pytest
from kombu import Connection

from dicom_node import logs
from dicom_node.errors import SettingsError
from dicom_node.settings import load
from tests.peers import free_port
from worker import queues
from worker.app import announce_study, create_app, waiting
from worker.settings import WorkerSettings


@pytest.fixture
def app(settings):
    return create_app(settings)


@pytest.mark.parametrize(
    "url", ["redis://r:6379/0", "rediss://r/0", "amqp://user@mq:5672//", "amqps://mq/v"]
)
def test_a_broker_speaks_redis_or_amqp(settings, tmp_path, url):
    (tmp_path / "password").write_text("s/c:t@\n")
    named = {"broker_url": url, "broker_password_file": tmp_path / "password"}
    read = load(WorkerSettings, data_dir=settings.data_dir, **named)
    broker = Connection(read.broker)
    assert broker.password == "s/c:t@"  # noqa: S105 - of the test
    assert broker.virtual_host == Connection(url).virtual_host


def test_another_kind_of_broker_is_refused_without_its_password(settings):
    with pytest.raises(SettingsError, match="begin with one of redis://") as refused:
        load(WorkerSettings, data_dir=settings.data_dir, broker_url="sqs://me:secret@x")
    assert "secret" not in str(refused.value)


def test_every_task_has_a_hard_time_limit(app, settings):
    limits = {
        name: annotation["time_limit"]
        for name, annotation in app.conf.task_annotations.items()
    }

    assert limits.keys() == queues.QUEUE_OF.keys()
    assert limits[queues.ANALYZE] == settings.analysis_time_limit.total_seconds()
    assert settings.lease > settings.analysis_time_limit
    assert settings.delivery_lease > settings.delivery_time_limit


def test_messages_are_json_acknowledged_late_and_taken_one_at_a_time(app):
    assert app.conf.task_serializer == "json"
    assert list(app.conf.accept_content) == ["json"]
    assert app.conf.task_acks_late
    assert app.conf.worker_prefetch_multiplier == 1
    assert {route["queue"] for route in app.conf.task_routes.values()} == {
        *("dispatch", "analysis", "delivery"),
    }


def test_a_study_is_announced_at_once(app):
    app.conf.broker_url = "memory://"
    assert announce_study(app, "1.2")
    assert announce_study(app, "1.3")
    with app.connection_for_read() as connection:
        assert waiting(connection, queues.ANALYSIS) == 2


def test_what_cannot_be_announced_is_left_to_the_sweep(app, caplog):
    app.conf.broker_url = f"redis://127.0.0.1:{free_port()}/0"
    app.conf.task_publish_retry = False
    assert not announce_study(app, "1.2")
    assert caplog.messages.count("broker unreachable, a sweep will do it") == 1


def test_the_text_of_a_tasks_error_stays_out_of_the_log():
    stream = io.StringIO()
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    logs.configure(stream=stream)
    try:
        context = {
            "id": "1",
            "name": queues.ANALYZE,
            "exc": "TypeError('DOE^JANE')",
            "traceback": "Traceback ... DOE^JANE",
            "args": "('1.2.3',)",
        }
        logging.getLogger("celery.app.trace").error(
            "Task %(name)s raised unexpected: %(exc)s", context, extra={"data": context}
        )
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = before
        root.setLevel(level)

    assert "DOE^JANE" not in stream.getvalue()
    assert queues.ANALYZE in stream.getvalue()
