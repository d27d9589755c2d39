"""A Celery worker that ends in bounded time once it has lost its way.

When the broker dies, its client may fail in a way that Celery cannot recover from: the
worker logs "Unrecoverable error" and stops. To stop, it waits for its pool, without a
limit, while nobody enforces the time limits of tasks any more. A process that waits so
is alive and takes no message; whoever starts dead processes again never gets to it.

What runs in the pool may be killed at any moment: a claim that nobody holds any more is
taken up again.
"""

import logging
import os
import signal
import threading
from contextlib import suppress
from typing import Any, Final

from celery import Celery
from celery.apps.worker import Worker
from celery.platforms import EX_FAILURE
from celery.worker import state

log = logging.getLogger(__name__)

GRACE_S: Final = 10.0


class EndingWorker(Worker):
    """Celery's worker; after an unrecoverable error it is gone within `GRACE_S`."""

    def stop(self, in_sighandler: bool = False, exitcode: int | None = None) -> None:  # noqa: FBT001, FBT002 - Celery's own signature
        """Stop as Celery does; set a limit to that where an error is the cause.

        Whoever asks by a signal is given all the time that the tasks need, although
        Celery ends with the same code after SIGINT.
        """
        asked = (getattr(state, name) for name in ("should_stop", "should_terminate"))
        was_asked = any(code is not None for code in asked)
        if exitcode == EX_FAILURE and not was_asked:
            limit = threading.Timer(GRACE_S, self._end)
            limit.daemon = True
            limit.start()
        super().stop(in_sighandler=in_sighandler, exitcode=exitcode)

    def _end(self) -> None:
        log.critical("the pool did not end in time and is killed, its claims expire")
        for process in self._children():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        os._exit(EX_FAILURE)

    def _children(self) -> list[Any]:
        """Return the pool's processes; a pool of threads, or none yet, has none."""
        pool = getattr(getattr(self, "pool", None), "_pool", None)
        return list(getattr(pool, "_pool", None) or ())


def bound(app: Celery) -> Celery:
    """Let the workers of an application end in bounded time; return it."""
    # Celery lets an application have a class of its own; its stubs do not know that.
    app.Worker = app.subclass_with_self(EndingWorker, name="Worker")  # type: ignore[misc]
    return app
