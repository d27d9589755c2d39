"""What `celery -A training` finds: the trainer's own small application.

    celery -A training worker -Q training --concurrency=1 -I training.tasks
    celery -A training beat --scheduler=celery.beat:Scheduler --pidfile=

It shares broker and database with the service and nothing else: no task of the
service is registered here, none of the trainer's there.
"""

import logging

from celery import Celery
from celery.schedules import crontab
from celery.signals import setup_logging

from dicom_node import logs
from dicom_node.settings import load
from training import queues
from training.settings import TrainingSettings
from worker.unrecoverable import bound


@setup_logging.connect
def configure_logging(**_: object) -> None:
    """Log as the other processes do: JSON lines, nothing that names a patient."""
    logs.configure()
    for name in ("celery.beat", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)


def create_app(settings: TrainingSettings) -> Celery:
    """Build the application.

    A message is acknowledged when it is taken: a retraining may last longer than a
    broker waits, and what was interrupted is found in the database.
    """
    made = Celery("sentinode-training", broker=settings.broker)
    minute, hour, day, month, weekday = settings.retrain_schedule.split()
    nightly = crontab(
        minute=minute,
        hour=hour,
        day_of_month=day,
        month_of_year=month,
        day_of_week=weekday,
    )
    every = {
        queues.RETRAIN: nightly,
        queues.SHADOW: settings.shadow_interval.total_seconds(),
        queues.DRIFT: settings.drift_interval.total_seconds(),
    }
    made.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_transport_options=settings.broker_options,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_routes={task: {"queue": queues.TRAINING} for task in queues.EVERY},
        task_create_missing_queues=True,
        timezone="UTC",
        beat_schedule={
            task: {
                "task": task,
                "schedule": schedule,
                # What waited behind a retraining is not made up for.
                "options": {"expires": 3600},
            }
            for task, schedule in every.items()
        },
    )
    return made


app = bound(create_app(load(TrainingSettings)))
