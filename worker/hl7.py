"""Receive results of pathology: `python -m worker.hl7`. It ends on SIGTERM or SIGINT.

HL7 v2 ORU^R01 over MLLP, on the port SENTINODE_HL7_PORT; `sentinode up` runs it where
one is set. Several may run on several hosts, on one database. Exit status 0 after a
stop, 1 with a sentence on stderr when it cannot run.
"""

import asyncio
import logging
import signal
import sys
from functools import partial
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node import db, logs, mllp, revisions, vocabulary
from dicom_node.errors import NodeError, SettingsError
from dicom_node.mllp import Limits, Server, Service
from dicom_node.settings import load, patient_secret
from worker import inbox
from worker.inbox import Inbox
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

STOP_GRACE_S: Final = 5.0
"""How long a message may take that is being answered when we are asked to stop."""


def service(settings: WorkerSettings, box: Inbox) -> Service:
    """Return what stands behind the port, by the settings."""
    return Service(
        handle=partial(inbox.receive, box),
        too_long=partial(inbox.refuse_too_long, box),
        allow=settings.hl7_allow,
        limits=Limits(
            settings.hl7_max_bytes,
            settings.hl7_frame_timeout,
            settings.hl7_idle_timeout,
        ),
    )


def open_inbox(settings: WorkerSettings) -> Inbox:
    """Open the database and read the words of the site.

    Raises:
        SettingsError: The database has another schema, or the table of words is none.
    """
    if not revisions.is_current(settings.database):
        raise SettingsError(
            "the database is not up to date: run `sentinode db upgrade`"
        )
    return Inbox(
        sessions=db.writing(db.connect(settings.database)),
        secret=patient_secret(settings),
        vocabulary=vocabulary.load(
            settings.hl7_words, itc_is_positive=settings.itc_is_positive
        ),
        window=settings.slnd_window,
        issuers=settings.hl7_issuers,
        processing_id=settings.hl7_processing_id,
        max_bytes=settings.hl7_max_bytes,
    )


async def serve(settings: WorkerSettings) -> None:
    """Listen until a signal asks to stop.

    Raises:
        SettingsError: No port is set, or a setting cannot be used.
        OSError: The port is taken.
    """
    if settings.hl7_port is None:
        raise SettingsError("SENTINODE_HL7_PORT: is not set, so HL7 is off")
    context = mllp.secured(
        settings.hl7_tls_certificate, settings.hl7_tls_key, settings.hl7_tls_client_ca
    )
    server = Server(service(settings, open_inbox(settings)))
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    port = await server.start(settings.hl7_host, settings.hl7_port, context)
    log.info("HL7 listener ready", extra={"port": port, "tls": context is not None})
    await stopping.wait()
    await server.stop(STOP_GRACE_S)


def main() -> int:
    """Return the exit status of the process."""
    logs.configure()
    try:
        settings = load(WorkerSettings)
        logs.configure(style=settings.log_format)
        asyncio.run(serve(settings))
    except NodeError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a sentence for a person
        return 1
    except (OSError, SQLAlchemyError) as error:
        # The text of a database error may hold its URL, and that a password.
        why = error.strerror if isinstance(error, OSError) else type(error).__name__
        text = f"the HL7 listener cannot start: {why}"
        print(text, file=sys.stderr)  # noqa: T201 - as above
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
