"""Run the listener: `python -m dicom_node`. It ends on SIGTERM or SIGINT.

Exit status 0 after a stop, 1 with a sentence on stderr when it cannot run.
"""

import signal
import sys
import threading
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import db, logs, schema
from dicom_node.errors import NodeError, SettingsError
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load

SIGNAL_POLL_S = 0.25
"""A signal that another thread took does not wake the main one: it must look."""


def run(settings: NodeSettings) -> None:
    """Listen until a signal asks to stop.

    Raises:
        SettingsError: The database has another schema than this version needs.
    """
    if not schema.is_current(settings.database):
        raise SettingsError(
            "the database is not up to date: run `sentinode db upgrade`"
        )
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    listener = Listener(settings, db.writing(db.connect(settings.database)))
    listener.start()
    while not stopping.wait(SIGNAL_POLL_S):
        pass
    listener.stop()


def main() -> int:
    """Return the exit status of the process."""
    logs.configure()
    try:
        settings = load(NodeSettings)
        logs.configure(style=settings.log_format)
        run(settings)
    except NodeError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a sentence for a person
        return 1
    except (OSError, SQLAlchemyError) as error:
        # The text of a database error may hold its URL, and that a password.
        text = error.strerror if isinstance(error, OSError) else type(error).__name__
        print(f"the listener cannot start: {text}", file=sys.stderr)  # noqa: T201 - as above
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
