"""Looks at an installation for whoever asks, but not more often than it can bear.

A look is kept for some seconds, and for much longer than the database took for it:
however many ask and however large it is, looking takes a small share of its time.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import db
from dicom_node.db import now
from dicom_node.errors import NodeError, SpoolFullError
from dicom_node.spool import Spool
from dicom_node.tables import InstanceRow
from worker import credentials, manifest, models, queues
from worker.app import reach, waiting
from worker.metrics import counts
from worker.metrics.counts import Counts, Names
from worker.metrics.families import InUse, View
from worker.metrics.tally import Tally
from worker.outcomes import Activation
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

FRESH_S: Final = 5.0
SHARE: Final = 20.0
"""A look is good for so many times as long as the database took."""

FIRST_WAIT_S: Final = 4.0
SIZE_FRESH_S: Final = 600.0
SIZE_SHARE: Final = 100.0
BROKER_TIMEOUT_S: Final = 2
QUEUES: Final = (queues.ANALYSIS, queues.DISPATCH, queues.DELIVERY)


class Scraper:
    """Views of one installation; any number of threads may ask."""

    def __init__(
        self,
        settings: WorkerSettings,
        engine: Engine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._sessions = db.reading(engine)
        self._clock = clock
        self._names = Names.of(settings)
        self._tally = Tally(self._names)
        self._lock = threading.Lock()
        self._view: View | None = None
        self._good_until = 0.0
        self._has_history = False
        self._reading: threading.Thread | None = None
        self._size = _Size(engine)

    def view(self, first_wait_s: float | None = FIRST_WAIT_S) -> View:
        """Return a view that is recent enough.

        The first time all results are read. It lacks the distributions when that takes
        longer than `first_wait_s`; None waits for them.
        """
        with self._lock:
            if self._view is None or self._clock() >= self._good_until:
                self._await_history(first_wait_s)
                self._view = self._look()
            return self._view

    def _await_history(self, timeout: float | None) -> None:
        """Read all results in a thread, once; half of them would look like a rise."""
        if self._has_history:
            return
        if self._reading is None or not self._reading.is_alive():
            self._reading = threading.Thread(target=self._read_history, daemon=True)
            self._reading.start()
        self._reading.join(timeout)

    def _read_history(self) -> None:
        try:
            with self._sessions() as session:
                self._tally.update(session)
            self._has_history = True
        except SQLAlchemyError as error:
            extra = {"error": type(error).__name__}
            log.warning("metrics without their history", extra=extra)

    def _look(self) -> View:
        started = self._clock()
        seen = self._counts()
        ended = self._clock()
        self._good_until = ended + max(FRESH_S, SHARE * (ended - started))
        return View(
            counts=seen,
            tally=self._tally if self._has_history else None,
            models=self._models(seen) if seen else (),
            queues=self._queues(),
            free_bytes=self._free_bytes(),
            min_free_bytes=self._settings.min_free_bytes,
            spool_bytes=self._size.known(),
            expiries=credentials.expiries(self._settings),
            seconds=self._clock() - started,
        )

    def _counts(self) -> Counts | None:
        try:
            with self._sessions() as session:
                if self._has_history:
                    self._tally.update(session)
                return counts.look(session, self._names, now())
        except SQLAlchemyError as error:
            extra = {"error": type(error).__name__}
            log.warning("metrics without a database", extra=extra)
            return None

    def _models(self, seen: Counts) -> tuple[InUse, ...]:
        return tuple(self._in_use(one, seen) for one in seen.active)

    def _in_use(self, one: Activation, seen: Counts) -> InUse:
        threshold = seen.thresholds.get(str(one.stage))
        source = "site"
        if threshold is None:
            source = "manifest"
            path = models.folder(self._settings.models, one.name, one.version)
            try:
                threshold = manifest.read(path).operating_threshold.value
            except NodeError:
                log.warning("the manifest of the active model cannot be read")
        weights = one.weights_sha256
        stage = str(one.stage)
        return InUse(stage, one.name, one.version, weights, threshold, source)

    def _queues(self) -> dict[str, int] | None:
        try:
            with reach(self._settings.broker, BROKER_TIMEOUT_S) as connection:
                return {name: waiting(connection, name) for name in QUEUES}
        except Exception as error:  # noqa: BLE001 - each transport has errors of its own
            extra = {"error": type(error).__name__}
            log.warning("metrics without a broker", extra=extra)
            return None

    def _free_bytes(self) -> int | None:
        try:
            return Spool(self._settings.spool).free_bytes()
        except SpoolFullError:
            return None


class _Size:
    """How many bytes of instances there are; summed now and then, and not waited for.

    The sum reads every instance, of which there may be millions.
    """

    def __init__(self, engine: Engine) -> None:
        self._sessions = db.reading(engine)
        self._bytes: int | None = None
        self._good_until = 0.0
        self._thread: threading.Thread | None = None

    def known(self) -> int | None:
        """Return the newest sum; one that is too old is made anew meanwhile."""
        running = self._thread is not None and self._thread.is_alive()
        if not running and time.monotonic() >= self._good_until:
            self._thread = threading.Thread(target=self._sum, daemon=True)
            self._thread.start()
            self._thread.join(0.2)  # enough for most, and none is kept waiting
        return self._bytes

    def _sum(self) -> None:
        started = time.monotonic()
        query = select(func.coalesce(func.sum(InstanceRow.size), 0))
        try:
            with self._sessions() as session:
                kept = query.where(InstanceRow.purged_at.is_(None))
                self._bytes = int(session.scalar(kept) or 0)
        except SQLAlchemyError as error:
            log.warning("size unknown", extra={"error": type(error).__name__})
        took = time.monotonic() - started
        self._good_until = time.monotonic() + max(SIZE_FRESH_S, SIZE_SHARE * took)
