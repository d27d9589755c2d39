"""What `celery -A worker` finds: settings from the environment, one application."""

import logging

from celery.signals import setup_logging

from dicom_node import logs
from worker import runtime
from worker.app import create_app
from worker.unrecoverable import bound


@setup_logging.connect
def configure_logging(**_: object) -> None:
    """Log as the other processes do: JSON lines, nothing that names a patient."""
    logs.configure(style=runtime.settings().log_format)
    for name in ("celery.beat", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)  # two lines for each sweep


app = bound(create_app(runtime.settings()))
