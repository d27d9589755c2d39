"""The Celery application: limits, serialisation, and what it must not log."""

import io
import logging

import pytest

from dicom_node import logs
from worker import queues
from worker.app import create_app


@pytest.fixture
def app(settings):
    return create_app(settings)


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
