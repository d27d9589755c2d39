"""What kills a process at a named point, from inside, and only in tests.

`arm` wraps the functions at which a process of a role may be killed. A wrapper looks
for an order in a folder that the harness writes; without one it costs one failed
`open`. Whoever makes the hit that the order names takes it: so a point fires once,
in whichever process comes there, and the process that replaces the dead one lives.
"""

import importlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path

FOLDER = "SENTINODE_TEST_KILL_ORDERS"
ORDER = "order.json"
FIRED = "fired.json"
BEYOND_A_HEADER = 2048


@dataclass(frozen=True, slots=True)
class Order:
    """Kill at the `occurrence`-th time that the point is come to.

    With `parent` the parent of the process goes first: a pool's process and its
    pool. `victim` is another process that is killed instead, `delay` seconds later,
    while this one goes on.
    """

    point: str
    occurrence: int
    parent: bool = False
    victim: int | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class Fired:
    """Who was killed, and by whom."""

    point: str
    pid: int
    by: int


class Orders:
    """The folder in which the harness and its processes meet."""

    def __init__(self, folder: Path):
        self.folder = folder

    def give(self, order: Order) -> None:
        self.folder.mkdir(exist_ok=True)
        self.take_back()
        draft = self.folder / "draft"
        draft.write_text(json.dumps(asdict(order)))
        draft.rename(self.folder / ORDER)

    def take_back(self) -> None:
        for name in (ORDER, FIRED):
            (self.folder / name).unlink(missing_ok=True)
        for each in self.folder.glob("hit.*"):
            each.unlink(missing_ok=True)

    def fired(self) -> Fired | None:
        """Return who was killed for the order that was given last."""
        try:
            return Fired(**json.loads((self.folder / FIRED).read_text()))
        except FileNotFoundError:
            return None

    def standing(self) -> Order | None:
        try:
            return Order(**json.loads((self.folder / ORDER).read_text()))
        except FileNotFoundError:
            return None

    def hit(self, point: str, victim: Callable[[], int] | None = None) -> Order | None:
        """Count this hit; return the order when it is the one to fire, taken."""
        order = self.standing()
        if order is None or order.point != point or not self._is_it(order):
            return None
        killed = order.victim or (victim() if victim else os.getpid())
        draft = self.folder / f"draft.{os.getpid()}"
        draft.write_text(json.dumps(asdict(Fired(point, killed, os.getpid()))))
        draft.rename(self.folder / FIRED)
        return order

    def _is_it(self, order: Order) -> bool:
        """Number this hit over all processes, and take the order when its turn came."""
        for number in range(1, order.occurrence + 1):
            with suppress(FileExistsError):
                (self.folder / f"hit.{number}").touch(exist_ok=False)
                if number < order.occurrence:
                    return False
                with suppress(FileNotFoundError):
                    (self.folder / ORDER).unlink()
                    return True
        return False


def die(order: Order) -> None:
    """Kill this process, after its parent where that is asked for."""
    if order.parent:
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_other(order: Order, pid: int) -> None:
    """Kill another process a little later, while this thread goes on."""

    def strike() -> None:
        time.sleep(order.delay)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    if order.delay:
        threading.Thread(target=strike, daemon=True).start()
    else:
        strike()


Condition = Callable[..., object]


def _always(*_: object, **__: object) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Hook:
    """A point before or after a function; `when` says which calls count.

    Before, `when` gets the arguments; after, the result and the arguments.
    """

    point: str
    target: str
    after: bool = False
    when: Condition = _always


def arm(role: str, folder: Path) -> None:
    """Wrap the functions at which a process of this role may be killed."""
    orders = Orders(folder)
    for hook in HOOKS[role]:
        _install(hook, orders)
    for special in SPECIAL[role]:
        special(orders)


def _resolve(target: str) -> tuple[object, str]:
    name, _, path = target.partition(":")
    owner = importlib.import_module(name)
    *parents, attribute = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, attribute


def _install(hook: Hook, orders: Orders) -> None:
    owner, attribute = _resolve(hook.target)
    function = getattr(owner, attribute)

    def strike() -> None:
        order = orders.hit(hook.point)
        if order is not None:
            die(order)

    @wraps(function)
    def before(*args, **kwargs):
        if hook.when(*args, **kwargs):
            strike()
        return function(*args, **kwargs)

    @wraps(function)
    def after(*args, **kwargs):
        result = function(*args, **kwargs)
        if hook.when(result, *args, **kwargs):
            strike()
        return result

    setattr(owner, attribute, after if hook.after else before)


def _goes_on(_, reader, *__) -> bool:
    """Say whether a PDU brought fragments of a data set, and more are to come."""
    return reader._message is not None  # noqa: SLF001 - nothing else tells it


def _has_rows_alone(_, batch) -> bool:
    """Say whether senders have their Success for rows that are not committed yet."""
    kinds = {type(each).__name__ for each in batch}
    return "ReceivedInstance" in kinds and "Carried" not in kinds


def _returned_something(result, *_, **__) -> bool:
    return bool(result)


def _studies(_, uids, at) -> bool:
    return bool(uids)


HOOKS = {
    "listener": (
        Hook(
            "listener-mid-transfer",
            "dicom_node.native_store:Reader._take_data",
            True,
            _goes_on,
        ),
        Hook("listener-before-name", "dicom_node.draft:Draft.sync", after=True),
        Hook("listener-before-row", "dicom_node.intake:Intake.keep_draft", after=True),
        Hook("listener-row-uncommitted", "dicom_node.recorder:write", after=True),
        Hook(
            "listener-before-success", "dicom_node.recorder:Recorder.commit", after=True
        ),
        Hook(
            "listener-success-no-row",
            "dicom_node.recorder:Recorder._commit",
            when=_has_rows_alone,
        ),
        Hook("listener-release", "dicom_node.listener:Listener._on_end"),
    ),
    "dispatch": (
        Hook(
            "dispatch-queued-uncommitted",
            "dicom_node.ledger:complete_due",
            True,
            _returned_something,
        ),
        Hook(
            "dispatch-queued-uncommitted",
            "dicom_node.ledger:complete_early",
            True,
            _returned_something,
        ),
        Hook(
            "dispatch-before-message",
            "worker.tasks.dispatch:_studies",
            True,
            _returned_something,
        ),
        Hook("dispatch-before-message", "worker.tasks.completeness:_announce"),
        Hook(
            "dispatch-message-unrecorded", "dicom_node.ledger:announced", when=_studies
        ),
        Hook("delivery-claimed", "worker.tasks.delivery:_exchange"),
        Hook("delivery-status-unrecorded", "worker.tasks.delivery:_record"),
        Hook("delivery-between-documents", "worker.tasks.delivery:_record", after=True),
    ),
    "analysis": (
        Hook("analysis-claimed", "worker.tasks.analysis:_compute"),
        Hook("analysis-inferred", "worker.tasks.analysis:_record"),
        Hook("analysis-frozen", "dicom_node.ledger:finish"),
        Hook("analysis-uncommitted", "dicom_node.outbox:enqueue", after=True),
        Hook("analysis-before-wake-up", "worker.app:announce_deliveries"),
    ),
    "beat": (Hook("beat-before-message", "celery.beat:Scheduler.apply_async"),),
}


def _half_read(orders: Orders) -> None:
    """The header of a PDU and half of its body are read: in mid-PDU."""
    owner, attribute = _resolve("dicom_node.native_store:Reader._fill_into")
    fill = getattr(owner, attribute)

    def filling(self, view):
        if len(view) > BEYOND_A_HEADER:
            order = orders.hit("listener-mid-pdu")
            if order is not None:
                fill(self, view[: len(view) // 2])
                die(order)
        fill(self, view)

    setattr(owner, attribute, filling)


def _half_written(orders: Orders) -> None:
    """The head of a `.part` file is written, its data set is not."""
    draft = importlib.import_module("dicom_node.draft")

    def looked_at(part):
        if isinstance(part, memoryview):  # the data set that came; all else is bytes
            order = orders.hit("listener-partial-file")
            if order is not None:
                die(order)
        return memoryview(part)

    draft.memoryview = looked_at  # shadows the builtin in this module alone


def _half_sent(orders: Orders) -> None:
    """Half of what goes out at once is out when the sender dies, or its peer."""
    owner, attribute = _resolve("dicom_node.native_send:Line._send")
    send = getattr(owner, attribute)

    def sending(self, part):
        half = len(part) // 2
        order = orders.hit("delivery-mid-send")
        if order is not None:
            send(self, part[:half])
            die(order)
        order = orders.hit("pacs-mid-receive")
        if order is not None:
            send(self, part[:half])
            kill_other(order, order.victim)
            part = part[half:]
        send(self, part)

    setattr(owner, attribute, sending)


def _unread_answer(orders: Orders) -> None:
    """The request is out as a whole, its answer is not read."""
    owner, attribute = _resolve("dicom_node.native_send:Line._answer")
    answer = getattr(owner, attribute)

    def answering(self, context_id, message_id):
        order = orders.hit("delivery-before-status")
        if order is not None:
            time.sleep(order.delay)
            die(order)
        return answer(self, context_id, message_id)

    setattr(owner, attribute, answering)


def _commit_in_doubt(orders: Orders) -> None:
    """A server process of PostgreSQL dies around a COMMIT that it was sent."""
    owner, _ = _resolve("sqlalchemy.engine.default:DefaultDialect.do_commit")
    commit = owner.do_commit

    def committing(self, connection):
        if self.name == "postgresql":
            own = connection.dbapi_connection.info.backend_pid
            for point in (
                "postgres-backend-mid-commit",
                "postgres-postmaster-mid-commit",
            ):
                order = orders.hit(point, victim=lambda: own)
                if order is not None:
                    kill_other(order, order.victim or own)
        commit(self, connection)

    owner.do_commit = committing


SPECIAL = {
    "listener": (_half_read, _half_written, _commit_in_doubt),
    "dispatch": (_half_sent, _unread_answer, _commit_in_doubt),
    "analysis": (_commit_in_doubt,),
    "beat": (),
}
