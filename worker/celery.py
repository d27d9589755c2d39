"""What `celery -A worker` finds: settings from the environment, one application."""

from celery.signals import setup_logging

from dicom_node import logs
from worker import runtime
from worker.app import create_app


@setup_logging.connect
def configure_logging(**_: object) -> None:
    """Log as the other processes do: JSON lines, nothing that names a patient."""
    logs.configure()


app = create_app(runtime.settings())
