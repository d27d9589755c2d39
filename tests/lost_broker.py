"""What `celery -A worker -I tests.lost_broker` loads: the failure of Celery's client.

Its Redis client may lose a channel's connection while it makes a new one, and a worker
answers with "Unrecoverable error". The moment is too rare to wait for, so it is made:
the connections that the worker makes once a file has appeared fail in that way.
"""

import os
import time
from pathlib import Path

from celery import shared_task
from kombu.transport import redis

TOLD, STARTED = "LOST_BROKER_FLAG", "LOST_BROKER_STARTED"

_parent = os.getpid()
_parameters = redis.Channel._connparams  # noqa: SLF001


def _connparams(channel, *args, **options):
    if os.getpid() == _parent and Path(os.environ[TOLD]).exists():
        raise AttributeError("'NoneType' object has no attribute 'hostname'")
    return _parameters(channel, *args, **options)


if TOLD in os.environ:
    redis.Channel._connparams = _connparams  # noqa: SLF001


@shared_task(name="tests.hang")
def hang() -> None:
    """Say which process this is, and never end."""
    Path(os.environ[STARTED], str(os.getpid())).touch()
    time.sleep(3600)
