"""The workers' application on a broker that soon takes a message for lost.

Each run of a task is a line of the worker's output, with the message's identifier.
"""

import sys

from celery.signals import task_prerun

from worker.celery import app

app.conf.broker_transport_options = {
    "visibility_timeout": 1,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}


@task_prerun.connect
def say(task_id: str, **_: object) -> None:
    sys.stdout.write(f"RUN {task_id}\n")
    sys.stdout.flush()
