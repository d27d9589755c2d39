"""What one process needs, built on first use: settings, sessions, spool.

Nothing is opened at import, so a forked child opens its own connections.
"""

import os
import socket
from functools import cache

from dicom_node import db
from dicom_node.db import Sessions
from dicom_node.settings import load
from dicom_node.shared_spool import spool_of
from dicom_node.spool import Spool
from worker.settings import WorkerSettings


@cache
def settings() -> WorkerSettings:
    """Read the settings once."""
    return load(WorkerSettings)


@cache
def sessions() -> Sessions:
    """Open the database of this process for writing."""
    return db.writing(db.connect(settings().database))


@cache
def spool() -> Spool:
    """Open the folder of instances and documents."""
    return spool_of(settings())


def name() -> str:
    """Return host and process, as a claim names its holder."""
    return f"{socket.gethostname()}:{os.getpid()}"
