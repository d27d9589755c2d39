"""The Celery application: JSON only, ids only, late acknowledgement, prefetch 1.

State lives in the database; a message only wakes someone up. It may be lost, be
delivered twice or arrive late: the claim in the ledger decides.
"""

import logging
from collections.abc import Iterable
from typing import Any, Final

from celery import Celery
from kombu import Connection, Queue
from kombu.exceptions import OperationalError

from worker import queues
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

SWEEP_LIMIT_S: Final = 120.0
EXAMINE_LIMIT_S: Final = 60.0
PURGE_EVERY_S: Final = 600.0
FOLLOW_EVERY_S: Final = 60.0
TIDY_EVERY_S: Final = 3600.0
RELAY_EVERY_S: Final = 10.0
PURGE_LIMIT_S: Final = 300.0
RECONNECT_TIMEOUT_S: Final = 4
CHILD_START_TIMEOUT_S: Final = 60.0
"""Celery kills a child that is silent for 4 s; loading two models may take longer."""


def create_app(settings: WorkerSettings) -> Celery:
    """Build the application; task modules are named by each process with `-I`.

    Celery's beat imports every module of `include`, and with it torch, so nothing
    is included here.
    """
    app = Celery("sentinode", broker=settings.broker)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=False,
        # Hard limits: the pool's process is killed, the claim expires after it.
        task_annotations={
            queues.SWEEP: {"time_limit": SWEEP_LIMIT_S},
            queues.EXAMINE: {"time_limit": EXAMINE_LIMIT_S},
            queues.COUNT: {"time_limit": SWEEP_LIMIT_S},
            queues.PURGE: {"time_limit": PURGE_LIMIT_S},
            queues.FOLLOW: {"time_limit": SWEEP_LIMIT_S},
            queues.TIDY: {"time_limit": PURGE_LIMIT_S},
            queues.RELAY: {"time_limit": SWEEP_LIMIT_S},
            queues.ANALYZE: {
                "time_limit": settings.analysis_time_limit.total_seconds()
            },
            queues.DELIVER: {
                "time_limit": settings.delivery_time_limit.total_seconds()
            },
        },
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=CHILD_START_TIMEOUT_S,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_transport_options=settings.broker_options,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_routes={task: {"queue": queue} for task, queue in queues.QUEUE_OF.items()},
        task_create_missing_queues=True,
        timezone="UTC",
        beat_schedule={
            "sweep": {
                "task": queues.SWEEP,
                "schedule": settings.sweep_interval,
                # A sweep that nobody took in time is replaced by the next one.
                "options": {"expires": 2 * settings.sweep_interval.total_seconds()},
            },
            "purge": {
                "task": queues.PURGE,
                "schedule": PURGE_EVERY_S,
                "options": {"expires": PURGE_EVERY_S},
            },
            "follow": {
                "task": queues.FOLLOW,
                "schedule": FOLLOW_EVERY_S,
                "options": {"expires": FOLLOW_EVERY_S},
            },
            "tidy": {
                "task": queues.TIDY,
                "schedule": TIDY_EVERY_S,
                "options": {"expires": TIDY_EVERY_S},
            },
            **_relaying(settings),
        },
    )
    return app


def reach(broker: str, timeout: float) -> Connection:
    """Return a connection, not yet open, that never waits longer than so many seconds.

    Each kind of broker takes the name that it knows and lets the others be.
    """
    names = ("socket_timeout", "read_timeout", "write_timeout")
    options = dict.fromkeys(names, timeout)
    return Connection(broker, connect_timeout=timeout, transport_options=options)


def _relaying(settings: WorkerSettings) -> dict[str, dict[str, Any]]:
    """Return the clock of the audit trail's sender, where there is a collector."""
    if settings.audit_syslog is None:
        return {}
    options = {"expires": RELAY_EVERY_S}
    entry = {"task": queues.RELAY, "schedule": RELAY_EVERY_S, "options": options}
    return {"relay": entry}


def answering(app: Celery, timeout: float) -> list[str]:
    """Return the names of the workers that answer a ping within so many seconds."""
    return [name for reply in app.control.ping(timeout=timeout) or [] for name in reply]


def waiting(connection: Connection, queue: str) -> int:
    """Return how many messages a queue holds; a queue that is not there holds none.

    A connection that broke is made again: one of a pool stays broken else.
    """
    connection.ensure_connection(max_retries=1, timeout=RECONNECT_TIMEOUT_S)
    try:
        # A channel of its own: a broker may close it to say that there is no queue.
        with connection.channel() as channel:
            bound = Queue(queue, channel=channel)
            declared: Any = bound.queue_declare(passive=True)  # its stub is wrong
            return int(declared.message_count)
    except connection.channel_errors:
        return 0


def announce_deliveries(app: Celery, destinations: Iterable[str]) -> None:
    """Send the messages of fresh deliveries at once; the sweep repeats lost ones."""
    for destination in destinations:
        if not _sent(app, queues.DELIVER, destination):
            return


def announce_study(app: Celery, uid: str) -> bool:
    """Send the message of a study that was just queued; say whether it is out."""
    return _sent(app, queues.ANALYZE, uid)


def _sent(app: Celery, task: str, *args: str) -> bool:
    """Send a message that a later sweep makes good for; say whether it is out."""
    try:
        app.send_task(task, args=list(args))
    except OperationalError:
        log.warning("broker unreachable, a sweep will do it", extra={"task": task})
        return False
    return True
