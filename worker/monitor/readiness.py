"""Whether an installation can do its work: its dependencies, looked at now and then.

Probes ask often and do not wait long, some checks take a second: an answer is given
from the last look, and a new one is made behind it when that is some seconds old.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Final

from worker.monitor.server import Answer

FRESH_S: Final = 5.0
STALE_S: Final = 30.0
JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Probe:
    """How to look at one thing, and for how long what was seen holds."""

    look: Callable[[], Check]
    good_for_s: float = FRESH_S


class Readiness:
    """The newest look at each dependency; any number of threads may ask."""

    def __init__(
        self, probes: Sequence[Probe], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._seen: dict[int, tuple[float, Check]] = {}
        self._at = float("-inf")
        self._lock = threading.Lock()
        self._behind: threading.Thread | None = None

    def checks(self) -> tuple[Check, ...]:
        """Return what was seen less than `STALE_S` ago."""
        age = self._clock() - self._at
        if age > STALE_S:
            self._refresh()
        seen = tuple(check for _, check in self._seen.values())
        if FRESH_S < age <= STALE_S and not (self._behind and self._behind.is_alive()):
            self._behind = threading.Thread(target=self._refresh, daemon=True)
            self._behind.start()
        return seen

    def answer(self, full: bool) -> Answer:  # noqa: FBT001 - as pages are asked
        """Answer a probe: 503 when a check fails; names and details if `full`."""
        found = self.checks()
        ready = all(check.ok for check in found)
        said: dict[str, object] = {"ready": ready}
        if full:
            said["checks"] = [asdict(check) for check in found]
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, json.dumps(said, indent=2).encode() + b"\n", JSON)

    def _refresh(self) -> None:
        with self._lock:
            if self._clock() - self._at <= FRESH_S:
                return  # somebody else has looked while we waited
            for number, probe in enumerate(self._probes):
                good_until, _ = self._seen.get(number, (float("-inf"), None))
                if self._clock() >= good_until:
                    check = probe.look()
                    good_for = probe.good_for_s if check.ok else FRESH_S
                    self._seen[number] = (self._clock() + good_for, check)
            self._at = self._clock()


def alive(full: bool) -> Answer:  # noqa: FBT001 - as pages are asked
    """Answer that the process is alive."""
    del full
    return Answer(HTTPStatus.OK, b"ok\n")
