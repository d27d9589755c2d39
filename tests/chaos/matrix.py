"""The matrix: every point many times, each run on its own seed.

A run sends a few studies, lets something be killed, starts it again, waits until
nothing moves any more, and compares the ledgers. Runs of one lane share an
installation, which is thrown away after some time, or kept after a fault.
"""

import queue
import random
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import sqlalchemy as sa

from dicom_node import db
from dicom_node.study import StudyState
from dicom_node.tables import AssociationRow, DeliveryRow, DeliveryState, StudyRow
from tests.chaos import ledgers, load, points, site, uproot
from tests.chaos.ledgers import Values
from tests.chaos.load import VARIANTS, Sender, Shipment
from tests.chaos.nursery import Nursery
from tests.chaos.points import Point
from tests.chaos.site import Site, is_alive
from tests.chaos.triggers import Order
from tests.chaos.uproot import UpSite
from tests.peers import wait_until
from tests.quick_models import write_models

SETTLE_S = 600.0
"""When a run that does not settle is lost: far beyond what a loaded machine needs."""

UNFIRED_S = 15.0
"""How long a point may still fire when all that was sent is settled."""

POLL_S = 0.05
RUNS_PER_SITE = 25
LOAD_S = 1.6
UP_LOAD_S = 2.5
"""How long a run is under load: a random kill comes within it."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run to make: which point, and the seed from which all else follows."""

    point: str
    seed: int
    number: int
    database: str

    @property
    def again(self) -> str:
        return (
            f"python -m tests.chaos --seed {self.seed} --point {self.point} "
            f"--only {self.number}"
        )

    def rng(self) -> random.Random:
        return random.Random(f"{self.seed}/{self.point}/{self.number}")  # noqa: S311 - to be repeated


@dataclass(slots=True)
class Run:
    """What came of one run."""

    job: Job
    fired: bool = False
    killed: str = ""
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unclean: list[str] = field(default_factory=list)
    error: str | None = None
    seconds: float = 0.0
    folder: str | None = None

    @property
    def failed(self) -> bool:
        faults = self.lost or self.duplicated or self.wrong or self.unclean
        return bool(faults or self.error or not self.fired)

    def sentences(self) -> Iterator[str]:
        if not self.fired:
            yield "the point did not fire"
        if self.error:
            yield self.error
        for name in ("lost", "duplicated", "wrong", "unclean"):
            yield from (f"{name}: {each}" for each in getattr(self, name))

    def as_document(self) -> dict[str, object]:
        return {**asdict(self), "failed": self.failed, "again": self.job.again}


def jobs(
    names: Sequence[str], runs: int, seed: int, only: int | None = None
) -> list[Job]:
    """Return the runs to make, round by round: each round has every point once."""
    rng = random.Random(seed)  # noqa: S311 - to be repeated
    found = []
    for number in range(runs) if only is None else [only]:
        round_ = [_job(name, seed, number) for name in names]
        rng.shuffle(round_)
        found += round_
    return found


def _job(name: str, seed: int, number: int) -> Job:
    databases = points.BY_NAME[name].databases
    return Job(name, seed, number, databases[(number + len(name)) % len(databases)])


class Matrix:
    """Lanes that take runs from one list each, beside one another."""

    def __init__(
        self, todo: Sequence[Job], lanes: Mapping[str, int], keep: Path | None
    ):
        self.folder = Path(keep or tempfile.mkdtemp(prefix="sentinode-chaos-"))
        self.todo = todo
        self.lanes = lanes
        self.reference: dict[int, Values] = {}
        self.done: queue.Queue[Run] = queue.Queue()

    def results(self) -> Iterator[Run]:
        """Make all runs; yield each as it ends."""
        nursery = Nursery()
        lanes: list[Lane] = []
        try:
            models = write_models(self.folder / "models")
            self.reference = undisturbed(nursery, models, self.folder / "reference")
            for database, beside in self.lanes.items():
                mine: queue.SimpleQueue[Job] = queue.SimpleQueue()
                count = 0
                for job in self.todo:
                    if job.database == database:
                        mine.put(job)
                        count += 1
                lanes += [
                    Lane(self, nursery, models, mine, f"{database}-{number}")
                    for number in range(min(beside, count))
                ]
            for lane in lanes:
                threading.Thread(target=lane.run, daemon=True).start()
            for _ in self.todo:
                yield self.done.get()
            for lane in lanes:
                lane.ended.wait(30)
        finally:
            for lane in lanes:
                lane.stop()
            nursery.close()


@dataclass(slots=True)
class Lane:
    """One installation after another, on which runs are made in turn."""

    matrix: Matrix
    nursery: Nursery
    models: Path
    mine: "queue.SimpleQueue[Job]"
    name: str
    site: Site | UpSite | None = None
    sites: int = 0
    runs: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    stopping: bool = False

    def run(self) -> None:
        """Make runs until there are none left, or it is told to stop."""
        while not self.stopping:
            try:
                job = self.mine.get_nowait()
            except queue.Empty:
                break
            self.matrix.done.put(self._make(job))
        self._leave(remove=True)
        self.ended.set()

    def stop(self) -> None:
        """End at once, also in the middle of a run."""
        self.stopping = True
        if not self.ended.is_set():
            self._leave(remove=False)

    def _make(self, job: Job) -> Run:
        run = Run(job)
        started = time.monotonic()
        try:
            if self.site is None:
                self.site = self._new_site()  # before its start: it may be stopped
                self.site.start()
                started = time.monotonic()
            kind = make_up_run if isinstance(self.site, UpSite) else make_run
            kind(self.site, run, self.matrix.reference)
        except Exception:  # noqa: BLE001 - a fault of one run is its result
            run.error = traceback.format_exc()
        run.seconds = time.monotonic() - started
        self.runs += 1
        if run.failed:
            run.folder = str(self.site.folder) if self.site else None
            self._leave(remove=False)
        elif self.runs >= RUNS_PER_SITE:
            self._leave(remove=True)
        return run

    def _new_site(self) -> Site | UpSite:
        self.sites += 1
        self.runs = 0
        folder = self.matrix.folder / f"{self.name}-{self.sites}"
        if self.name.startswith(points.UP):
            return uproot.new(folder, self.nursery, self.models)
        database = self.name.rpartition("-")[0]
        return Site(folder, database, self.nursery, self.models)

    def _leave(self, *, remove: bool) -> None:
        if self.site is not None:
            self.site.close()
            if remove:
                self.site.remove()
        self.site = None


def undisturbed(nursery: Nursery, models: Path, folder: Path) -> dict[int, Values]:
    """Return what each variant gives where nothing is killed."""
    here = Site(folder, points.SQLITE, nursery, models)
    try:
        here.start()
        sent = [load.study(f"reference {n}", n) for n in range(len(VARIANTS))]
        senders = sending(sent, here.port, 0.2)
        settle(here, sent, senders)
        with here.read() as session:
            found = {
                each.variant: ledgers.values_of(
                    session, each.study_uid, ledgers.images_of(each)
                )
                for each in sent
            }
        faults = ledgers.check(here, sent, found)
        assert not faults, list(faults)
        assert len({str(values) for values in found.values()}) == len(VARIANTS)
    finally:
        here.close()
    here.remove()
    return found


def sending(sent: Sequence[Shipment], port: int, pause: float) -> list[Sender]:
    until = time.monotonic() + SETTLE_S
    senders = [Sender(each, port, pause, until) for each in sent]
    for sender in senders:
        sender.start()
    return senders


def make_run(here: Site, run: Run, reference: Mapping[int, Values]) -> None:
    """Send, kill, start again, wait, compare."""
    point, rng = points.BY_NAME[run.job.point], run.job.rng()
    name = f"{run.job.seed} {point.name} {run.job.number} {here.folder}"
    variants = rng.sample(range(len(VARIANTS)), rng.choice([2, 2, 3]))
    sent = [load.study(f"{name} {number}", number) for number in variants]
    here.restart_pause = rng.choice([0.0, 0.0, 0.3])
    here.deaths.clear()
    here.await_quiet()
    strike = (
        _external(here, point, rng) if point.is_random else _order(here, point, rng)
    )
    senders = sending(sent, here.port, 0.1)
    try:
        settle(here, sent, senders, strike)
    finally:
        run.killed = strike.said()
        run.fired = strike.fired()
        here.orders.take_back()
    faults = ledgers.check(here, sent, reference)
    run.lost, run.duplicated = faults.lost, faults.duplicated
    run.wrong, run.unclean = faults.wrong, faults.unclean


def make_up_run(here: UpSite, run: Run, reference: Mapping[int, Values]) -> None:
    """Send, kill `sentinode up`, see what it leaves, start it again, wait, compare."""
    rng = run.job.rng()
    variants = rng.sample(range(len(VARIANTS)), 3)
    name = f"{run.job.seed} up {run.job.number} {here.folder}"
    sent = [load.study(f"{name} {number}", number) for number in variants]
    senders = sending(sent, here.port, 0.1)
    time.sleep(rng.uniform(0.02, UP_LOAD_S))
    tree = here.tree.pid
    here.kill_tree()
    killed_at = time.monotonic()
    left = here.remains()
    run.killed = f"{tree}; its children were gone after "
    run.killed += f"{time.monotonic() - killed_at:.1f} s"
    run.fired = not is_alive(tree)
    here.spawn_all()
    wait_until(here.is_ready, "the next start", site.READY_S)
    settle(here, sent, senders)
    faults = ledgers.check(here, sent, reference)
    run.lost, run.duplicated = faults.lost, faults.duplicated
    run.wrong, run.unclean = faults.wrong, faults.unclean + left


class Strike:
    """A kill that a run waits for; `tick` is called again and again until then."""

    def __init__(self, here: Site, point: Point):
        self.here = here
        self.point = point
        self.skipped = False

    def tick(self) -> None:
        """Do what is to be done by now."""

    def skip_time(self) -> None:
        """Once the holder of a claim is dead, or its commit in doubt, end its lease."""
        holds = self.point.process in {*site.POOLS, points.DATABASE}
        if not holds or self.skipped or not self.fired():
            return
        with suppress(sa.exc.DBAPIError):  # then it is being started again
            whole = self.point.process == points.DATABASE
            self.here.skip_leases(db.now(), also_of_the_living=whole)
            self.skipped = True

    def fired(self) -> bool:
        raise NotImplementedError

    def said(self) -> str:
        return ""


class Ordered(Strike):
    """A kill from inside, at a named point."""

    def __init__(self, here: Site, point: Point, order: Order):
        super().__init__(here, point)
        self.order = order
        here.orders.give(order)

    def fired(self) -> bool:
        """Say whether the process came to the point and is dead by signal 9."""
        fired = self.here.orders.fired()
        if fired is None or fired.point != self.order.point or is_alive(fired.pid):
            return False
        codes = [each.code for each in self.here.deaths if each.pid == fired.pid]
        return all(code in {None, -9} for code in codes)

    def said(self) -> str:
        fired = self.here.orders.fired()
        died = [f"{each.name} {each.code}" for each in self.here.deaths]
        return f"{self.order} {fired} {died}"


class Random(Strike):
    """A kill from outside, at a moment that nobody chose."""

    def __init__(self, here: Site, point: Point, rng: random.Random):
        super().__init__(here, point)
        self.rng = rng
        self.at = time.monotonic() + rng.uniform(0.02, LOAD_S)
        self.pid: int | None = None

    def tick(self) -> None:
        if self.pid is None and time.monotonic() >= self.at:
            pid = self.here.victim(self.point.process, self.rng)
            if site.kill(pid):
                self.pid = pid

    def fired(self) -> bool:
        return self.pid is not None and not is_alive(self.pid)

    def said(self) -> str:
        died = [f"{each.name} {each.code}" for each in self.here.deaths]
        return f"{self.pid} {died}"


def _external(here: Site, point: Point, rng: random.Random) -> Strike:
    return Random(here, point, rng)


def _order(here: Site, point: Point, rng: random.Random) -> Strike:
    occurrence = rng.randint(*point.occurrences)
    victim = None
    if point.process == points.PACS:
        victim = here.pacs.process.pid
    if point.name == "postgres-postmaster-mid-commit":
        victim = here.postmaster()
    parent = point.process in site.POOLS and rng.random() < 0.3
    delay = rng.choice([0.0, rng.uniform(0, 0.003)])
    return Ordered(here, point, Order(point.name, occurrence, parent, victim, delay))


def settle(
    here: Site,
    sent: Sequence[Shipment],
    senders: Sequence[Sender],
    strike: Strike | None = None,
) -> None:
    """Keep the site up until all is analysed and sent, or `SETTLE_S` are over."""
    deadline = time.monotonic() + SETTLE_S
    settled_at: float | None = None
    while time.monotonic() < deadline:
        # Asked before what died is started again: a database that was killed when
        # all was done must be up before its ledgers are read.
        struck = strike is None or strike.fired()
        here.tend()
        if strike is not None:
            strike.tick()
            strike.skip_time()
        alive = any(sender.is_alive() for sender in senders)
        if not alive and is_settled(here, sent):
            settled_at = settled_at or time.monotonic()
            waited = time.monotonic() - settled_at
            if struck or waited > UNFIRED_S:
                return
        else:
            settled_at = None
        time.sleep(POLL_S)


def is_settled(here: Site, sent: Sequence[Shipment]) -> bool:
    """Say whether nothing of what was sent is still to be done."""
    uids = [each.study_uid for each in sent]
    try:
        with here.read() as session:
            states = session.scalars(
                sa.select(StudyRow.state).where(StudyRow.study_uid.in_(uids))
            ).all()
            waiting = session.scalar(
                sa.select(sa.func.count())
                .select_from(DeliveryRow)
                .where(
                    DeliveryRow.study_uid.in_(uids),
                    DeliveryRow.state == DeliveryState.DUE,
                )
            )
            opened = session.scalar(
                sa.select(sa.func.count())
                .select_from(AssociationRow)
                .where(AssociationRow.closed_at.is_(None))
            )
    except sa.exc.DBAPIError:
        return False  # it is being started again
    done = len(states) == len(uids) and set(states) == {StudyState.ANALYZED}
    return done and not waiting and not opened
