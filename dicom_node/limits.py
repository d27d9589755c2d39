"""How much one caller may take, so that none starves the others."""

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

MAX_SILENT: Final = 128
MAX_SILENT_OF_ONE: Final = 32
"""Connections that have not asked for an association yet: in all, of one address."""

REMEMBERED: Final = 4096
"""Addresses whose calls are counted; the one that was silent longest is forgotten."""

OWN_NET: Final = 64
"""Bits of an IPv6 address that a host cannot choose by itself."""

Clock = Callable[[], float]
Address = tuple[str, int]
"""IP address and port of a caller."""


def source(address: str) -> str:
    """Return what one caller cannot change: its address, of IPv6 the first half."""
    parsed = ip_address(address.partition("%")[0])
    if not isinstance(parsed, IPv6Address) or parsed.ipv4_mapped is not None:
        return address
    return str(ip_network((parsed, OWN_NET), strict=False))


class Rate:
    """So many calls a minute from each address; those saved up may come at once."""

    def __init__(self, per_minute: int, clock: Clock = time.monotonic) -> None:
        self._limit = float(per_minute)
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, address: str) -> bool:
        """Count a call; False when it is one too many. A limit of 0 is none."""
        if not self._limit:
            return True
        at, who = self._clock(), source(address)
        with self._lock:
            left, before = self._left.pop(who, (self._limit, at))
            left = min(self._limit, left + (at - before) * self._limit / 60)
            self._left[who] = (left - 1 if left >= 1 else left, at)
            if len(self._left) > REMEMBERED:
                self._left.popitem(last=False)
        return left >= 1


@dataclass(slots=True)
class Silent:
    """Connections that have not said yet what they want.

    Each leaves by itself after `patience` seconds: whoever waits on it hangs up then.
    """

    patience: float
    clock: Clock = time.monotonic
    _since: dict[Address, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, caller: Address) -> bool:
        """Enter a connection; False when there are too many."""
        at = self.clock()
        with self._lock:
            self._since = {
                one: since
                for one, since in self._since.items()
                if at - since < self.patience
            }
            of_one = sum(one[0] == caller[0] for one in self._since)
            if len(self._since) >= MAX_SILENT or of_one >= MAX_SILENT_OF_ONE:
                return False
            self._since[caller] = at
            return True

    def leave(self, caller: Address) -> None:
        """Forget a connection that has spoken, or is closed."""
        with self._lock:
            self._since.pop(caller, None)


@dataclass(slots=True)
class Places:
    """Who holds an association: no more than so many in all, and of each caller.

    A holder that has died holds nothing, whatever it forgot to give back.
    """

    in_all: int
    of_one: int
    _held: dict[threading.Thread, tuple[str, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, holder: threading.Thread, caller: tuple[str, str]) -> bool:
        """Give a place to the thread of an association; False when none is left."""
        with self._lock:
            self._held = {
                one: whose for one, whose in self._held.items() if one.is_alive()
            }
            held = Counter(self._held.values())
            if held.total() >= self.in_all or held[caller] >= self.of_one:
                return False
            self._held[holder] = caller
            return True

    def give_back(self, holder: threading.Thread) -> None:
        """Free the place of an association that has ended."""
        with self._lock:
            self._held.pop(holder, None)
