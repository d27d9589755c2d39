"""Tells a web service of faults, each once, and when it is over.

What was told stands in a file, which is written after the service took it: a post that
fails is made again, with a growing pause, from what is so by then. A file and not the
database, because the database may be what is at fault, and because a look at an
installation changes nothing in it. One process of a data folder tells, the others wait.
"""

import fcntl
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.db import Clock, Sessions, now
from dicom_node.destination import read_secret
from dicom_node.errors import NodeError
from worker import webhook
from worker.metrics.counts import Names
from worker.metrics.scraper import Scraper
from worker.monitor import faults
from worker.monitor.faults import Fault, News, Told
from worker.monitor.readiness import Readiness
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

EVERY_S: Final = 20.0
MAX_PAUSE_S: Final = 900.0
LOOKS: Final = 2
"""Looks in a row that must find a fault: a worker that is started anew is none."""

TOLD_FILE: Final = "notified.json"
LOCK_FILE: Final = "notified.lock"
OF_CHECKS: Final = frozenset({"not_ready"})
OF_DATABASE: Final = frozenset({"backlog", "drift", "study_failed", "delivery_failed"})


@dataclass(frozen=True, slots=True)
class Sources:
    """Where faults are looked for."""

    scraper: Scraper
    readiness: Readiness
    sessions: Sessions


class Watch:
    """Looks, compares and tells; `run` does so until it is stopped."""

    def __init__(
        self, settings: WorkerSettings, sources: Sources, clock: Clock = now
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._clock = clock
        self._names = Names.of(settings)
        self._path = settings.data_dir / TOLD_FILE
        self._streaks: dict[str, int] = {}
        self._failures = 0

    def run(self, stopping: threading.Event) -> None:
        """Tell what happens until asked to stop; waits while another process does."""
        pause = 0.0
        while not stopping.wait(pause):
            with alone_with(self._settings.data_dir / LOCK_FILE) as alone:
                while alone and not stopping.wait(pause):
                    pause = self.attempt()
            pause = EVERY_S

    def attempt(self) -> float:
        """Tell once; return how long to wait then. Nothing here may end the thread."""
        try:
            self.tell()
        except Exception as error:  # noqa: BLE001 - whatever fails, it is tried again
            self._failures += 1
            pause = min(EVERY_S * 2.0**self._failures, MAX_PAUSE_S)
            why = str(error) if isinstance(error, NodeError) else type(error).__name__
            extra = {"error": why, "again_in_s": pause}
            log.warning("notification not delivered", extra=extra)
            return pause
        self._failures = 0
        return EVERY_S

    def tell(self) -> News:
        """Post what is new, if anything, and remember it.

        Raises:
            NodeError: The service did not take it, or the secret cannot be read.
        """
        at = self._clock()
        found, looked_at = self._look()
        told = read(self._path)
        news = faults.compare(told, found, looked_at, at)
        if news and self._settings.webhook_url is not None:
            source = f"{self._settings.aet}@{socket.gethostname()}"
            said = faults.document(news, source, at)
            webhook.post(self._settings.webhook_url, self._secret(), said)
            write(self._path, _after(told, news))
            extra = {"opened": len(news.opened), "resolved": len(news.resolved)}
            log.info("notification delivered", extra=extra)
        return news

    def _look(self) -> tuple[dict[str, Fault], frozenset[str]]:
        """Return the faults that are there, and the kinds that could be looked for."""
        checks = {
            one.key: one for one in faults.of_checks(self._sources.readiness.checks())
        }
        self._streaks = {key: self._streaks.get(key, 0) + 1 for key in checks}
        found = {k: one for k, one in checks.items() if self._streaks[k] >= LOOKS}
        # What is told and seen again is not over, whatever its streak is.
        found |= {k: one for k, one in checks.items() if k in read(self._path)}
        rows = self._rows()
        if rows is None:
            return found, OF_CHECKS
        return found | rows, OF_CHECKS | OF_DATABASE

    def _rows(self) -> dict[str, Fault] | None:
        counts = self._sources.scraper.view().counts
        if counts is None:
            return None
        patience = self._settings.backlog_after
        try:
            with self._sources.sessions() as session:
                failed = list(faults.of_rows(session, self._names))
        except SQLAlchemyError:
            return None
        waiting = faults.of_counts(counts, patience)
        return {one.key: one for one in (*failed, *waiting)}

    def _secret(self) -> bytes | None:
        path = self._settings.webhook_secret_file
        return None if path is None else read_secret(path).encode()


def _after(told: Mapping[str, Told], news: News) -> dict[str, Told]:
    over = {one.fault.key for one in news.resolved}
    left = {key: one for key, one in told.items() if key not in over}
    return left | {one.fault.key: one for one in news.opened}


def read(path: Path) -> dict[str, Told]:
    """Read what was told; a file that is not ours counts as empty."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            key: Told(Fault(key, str(one["text"])), str(one["since"]))
            for key, one in entries.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("what was told is not readable: all is told again")
        return {}


def write(path: Path, told: Mapping[str, Told]) -> None:
    """Write what was told, whole or not at all."""
    entries = {
        key: {"text": one.fault.text, "since": one.since} for key, one in told.items()
    }
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(entries, indent=2), encoding="utf-8")
    draft.replace(path)


@contextmanager
def alone_with(path: Path) -> Iterator[bool]:
    """Say whether no other process holds a lock; it is held meanwhile."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


Stopper = Callable[[], None]


def start(watch: Watch) -> Stopper:
    """Watch in a thread; return what stops it."""
    stopping = threading.Event()
    thread = threading.Thread(
        target=watch.run, args=(stopping,), name="watch", daemon=True
    )
    thread.start()
    return stopping.set
