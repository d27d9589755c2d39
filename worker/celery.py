"""What `celery -A worker` finds: settings from the environment, one application."""

from worker import runtime
from worker.app import create_app

app = create_app(runtime.settings())
