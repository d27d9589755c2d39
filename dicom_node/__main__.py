"""Run the listener: `python -m dicom_node`. It ends on SIGTERM or SIGINT.

Exit status 0 after a stop, 1 with a sentence on stderr when it cannot run.
`python -m dicom_node --check` asks the one that runs on this host for C-ECHO.
"""

import argparse
import os
import pwd
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import audit, db, logs, revisions, verification
from dicom_node.audit import Kind
from dicom_node.errors import NodeError, SettingsError
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load

CHECK_TIMEOUT_S: Final = 5.0
SIGNAL_POLL_S = 0.25
"""A signal that another thread took does not wake the main one: it must look."""


def run(settings: NodeSettings) -> None:
    """Listen until a signal asks to stop.

    Raises:
        SettingsError: The database has another schema than this version needs.
    """
    if not revisions.is_current(settings.database):
        raise SettingsError(
            "the database is not up to date: run `sentinode db upgrade`"
        )
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    sessions = db.writing(db.connect(settings.database))
    listener = Listener(settings, sessions)
    listener.start()
    audit.activity(sessions, settings, (Kind.START, "listener start"), _user())
    while not stopping.wait(SIGNAL_POLL_S):
        pass
    listener.stop()
    audit.activity(sessions, settings, (Kind.STOP, "listener stop"), _user())


def _user() -> str:
    """Return whose process this is; a container may have no name for it."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


def check(settings: NodeSettings) -> None:
    """Ask the listener of this host for C-ECHO, as a container's check of health.

    Raises:
        PeerUnavailableError: It does not answer.
        PeerRejectedError: It answers that it is not well.
    """
    verification.echo(settings.listener, settings.aet, CHECK_TIMEOUT_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status of the process."""
    parser = argparse.ArgumentParser("python -m dicom_node")
    parser.add_argument("--check", action="store_true", help="ask for C-ECHO, and end")
    asked = parser.parse_args(arguments)
    logs.configure()
    try:
        settings = load(NodeSettings)
        logs.configure(style=settings.log_format)
        (check if asked.check else run)(settings)
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
