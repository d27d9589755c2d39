"""What is done for every study, and every moment, reads no table whole.

On both databases, in a ledger as it is after years; on SQLite as a site has it, which
never gathers statistics, and with them.
"""

import shutil
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node import audit, commitment, db, ledger, outbox, purge, schema
from dicom_node.commitment import Report
from dicom_node.db import now
from dicom_node.settings import load
from dicom_node.study import Reason, StudyState
from dicom_node.tables import DeliveryRow, DeliveryState
from tests import grown, plans, study_work
from tests.study_work import ARCHIVE, PACS, Desk
from worker import activity, chronicle, keeping, outcomes, parking
from worker.metrics import counts
from worker.metrics.counts import Names
from worker.metrics.tally import Tally
from worker.monitor import faults, status
from worker.settings import WorkerSettings

STUDIES = 3000
PER_DAY = 5
"""As few of all studies are of the last day as after years."""

SOON = timedelta(minutes=5)
MONTH = timedelta(days=30)

Step = Callable[[Desk], object]


@pytest.fixture(scope="module")
def grown_file(tmp_path_factory, migrated):
    folder = tmp_path_factory.mktemp("grown")
    file = shutil.copy(migrated, folder / "ledger.db")
    grown.fill(f"sqlite:///{file}", STUDIES, PER_DAY)
    return file


def _analyzed(url: str) -> str:
    engine = db.connect(url)
    command = "ANALYZE" if engine.dialect.name == "sqlite" else "VACUUM ANALYZE"
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(command)
    engine.dispose()
    return url


def _url(request, kind: str) -> str:
    if kind == "postgresql":
        url = request.getfixturevalue("postgres").create()
        schema.upgrade(url)
        grown.fill(url, STUDIES, PER_DAY)
        return _analyzed(url)
    file = request.getfixturevalue("grown_file")
    url = f"sqlite:///{shutil.copy(file, file.with_name(f'{kind}.db'))}"
    return _analyzed(url) if kind == "sqlite with statistics" else url


@contextmanager
def at_desk(url: str, folder):
    engine = db.connect(url)
    settings = load(WorkerSettings, data_dir=folder, pacs=(PACS, ARCHIVE))
    made = Desk(db.writing(engine), settings)
    study_work.whole(made, now())
    yield made
    engine.dispose()


@pytest.fixture(
    scope="module", params=["sqlite", "sqlite with statistics", "postgresql"]
)
def desk(request, tmp_path_factory):
    url, folder = _url(request, request.param), tmp_path_factory.mktemp("site")
    with at_desk(url, folder) as made:
        while _follow(made):
            pass  # the first time it looks at everything
        yield made


def reads(desk: Desk, step: Step) -> dict[str, set[str]]:
    """What a step reads whole."""
    with plans.sent(desk.engine) as statements:
        step(desk)
    assert statements
    with desk.engine.connect() as connection:
        return plans.whole_reads(connection, statements)


def undone(*looks: Callable[[sa.orm.Session], object]) -> Step:
    """A step in one transaction that is taken back."""

    def run(desk: Desk) -> None:
        with desk.sessions() as session:
            for look in looks:
                look(session)
                session.flush()

    return run


def claimed(then: Callable[..., object]) -> Step:
    """A step on a study that was claimed just now."""

    def run(desk: Desk) -> None:
        uid, at = study_work.new_uid(now()), now()
        study_work.receive(desk, uid, at)
        study_work.sweep(desk.sessions, study_work.SILENT, desk.settings, at + SOON)
        claim = study_work.take(desk, uid, at + SOON)
        with desk.sessions() as session:
            then(session, claim, at)

    return run


def sent_one(then: Callable[..., object]) -> Step:
    """A step on a delivery of a study that went out just now."""

    def run(desk: Desk) -> None:
        uid = study_work.whole(desk, now())
        with desk.sessions() as session:
            one = session.scalars(
                sa.select(DeliveryRow.delivery_id).where(
                    DeliveryRow.study_uid == uid,
                    DeliveryRow.destination == str(PACS),
                )
            ).first()
            then(session, one)

    return run


def _commit(session, delivery_id) -> None:
    at = now() + SOON
    commitment.want(session, delivery_id, at)
    request = commitment.claim(session, str(PACS), SOON, at, 200)
    (_, uid), *_ = request.objects
    commitment.postponed(session, request, "no answer", at - MONTH, at)
    commitment.reported(
        session, Report(request.transaction_uid, frozenset({uid}), {}), at
    )


def _purge(session, delivery_id) -> None:
    uid = session.get(DeliveryRow, delivery_id).study_uid
    purge.extent(session, uid)
    purge.begin(session, uid, now())
    keeping.release(session, uid, now(), newest=True)
    purge.is_arriving(session, uid, now())
    purge.purged(session, uid)
    keeping.of_study(session, uid)


def _retry(session, delivery_id) -> None:
    outbox.deliveries(session, result_id="r")
    outbox.deliveries(session, study_uid="1.2")
    outbox.lookup(session, delivery_id)
    outbox.documents(session, "r", variants=True)


def _follow(desk: Desk) -> int:
    with desk.sessions.begin() as session:
        return chronicle.follow(session, audit.trail_of(desk.settings))


def _scrape(desk: Desk) -> None:
    with desk.sessions() as session:
        counts.look(session, Names.of(desk.settings), now())


HELD = (StudyState.HELD, Reason.NO_ROI, "no rectangle")

STEPS: dict[str, Step] = {
    "a study, from its first object to its last delivery": lambda desk: (
        study_work.whole(desk, now())
    ),
    "a study that is held": claimed(
        lambda session, claim, at: ledger.conclude(session, claim, HELD, at)
    ),
    "a study that is given back": claimed(
        lambda session, claim, at: ledger.give_back(session, claim, at, "again")
    ),
    "lost workers": undone(
        lambda session: ledger.expire_leases(session, now() + MONTH),
        lambda session: ledger.release_all(session, now()),
        lambda session: outbox.release_all(session, now()),
        lambda session: ledger.close_stale(session, "SENTINODE", now()),
    ),
    "the archive's counts": undone(
        lambda session: ledger.take_uncounted(session, now(), SOON, 10),
        lambda session: ledger.unannounced(session, now(), SOON, 10, counted=True),
    ),
    "a long queue": undone(
        lambda session: ledger.announced_since(session, 5),
        lambda session: ledger.unannounced(session, now(), SOON, 10, bulk=True),
    ),
    "storage commitment": sent_one(_commit),
    "one delivery": sent_one(_retry),
    "a purge": sent_one(_purge),
    "a purge that was cut off": undone(purge.unfinished),
    "parked results of pathology": undone(lambda session: parking.due(session, now())),
    "the audit trail": _follow,
    "faults": lambda desk: undone(
        lambda session: list(faults.of_rows(session, Names.of(desk.settings)))
    )(desk),
    "the status page": lambda desk: undone(
        lambda session: status.look(session, Names.of(desk.settings), now())
    )(desk),
    "lists": undone(
        lambda session: ledger.studies(session, limit=20),
        lambda session: outcomes.results(session, limit=20),
        lambda session: outcomes.results(session, "1.2"),
        lambda session: outbox.deliveries(session, limit=20),
        lambda session: outbox.deliveries(session, state=DeliveryState.FAILED),
        lambda session: ledger.of_patients(session, ["0"]),
    ),
    "stats": undone(lambda session: activity.look(session, 1, now())),
}
# Not here, because these look at everything by their nature: `reconcile` and the
# purge's comparison of files with rows (`keeping.reconcile`), which hold up no writer;
# the first look of the metrics at all results (`Tally`) and the size of the spool, in
# threads of their own; a list of all studies or deliveries in a common state.


@pytest.mark.parametrize("name", STEPS)
def test_no_step_reads_a_growing_table_whole(desk, name):
    assert reads(desk, STEPS[name]) == {}


def test_distributions_read_what_is_new(desk):
    names = Names.of(desk.settings)
    history = Tally(names)
    undone(history.update)(desk)
    study_work.whole(desk, now())
    assert reads(desk, undone(history.update)) == {}


def test_metrics_count_in_indexes_and_touch_no_row(desk):
    found = set().union(*reads(desk, _scrape).values())
    assert {
        one for one in found if "COVERING" not in one and "Only" not in one
    } == set()


@pytest.mark.parametrize(
    ("index", "step"),
    [
        ("ix_association_study_study_uid", STEPS["the audit trail"]),
        ("ix_instance_study_uid", STEPS["a purge"]),
        ("ix_transfer_began_at", STEPS["the audit trail"]),
        ("ix_study_purge_begun_at", STEPS["a purge that was cut off"]),
        ("ix_delivery_created_at", STEPS["lists"]),
    ],
)
def test_an_index_that_is_gone_is_noticed(desk, index, step):
    with plans.sent(desk.engine) as statements:
        step(desk)
    with desk.engine.connect() as connection:
        connection.exec_driver_sql(f"DROP INDEX {index}")
        found = plans.whole_reads(connection, statements)
        connection.rollback()
    assert found


def steps_of(url: str, folder, step: Step) -> int:
    """How much SQLite does for a step."""
    with at_desk(url, folder) as made, plans.steps(made.engine) as counted:
        step(made)
        return counted[0]


@pytest.fixture(scope="module")
def few_file(tmp_path_factory, migrated):
    file = shutil.copy(migrated, tmp_path_factory.mktemp("few") / "ledger.db")
    grown.fill(f"sqlite:///{file}", 100, PER_DAY)
    return file


@pytest.mark.parametrize(
    "step",
    [
        STEPS["a study, from its first object to its last delivery"],
        lambda desk: study_work.idle_sweep(desk, now() + SOON),
    ],
    ids=["a study", "a sweep with nothing to do"],
)
def test_as_much_work_among_many_as_among_few(few_file, grown_file, tmp_path, step):
    few, many = (
        steps_of(f"sqlite:///{shutil.copy(one, tmp_path / name)}", tmp_path, step)
        for name, one in (("few.db", few_file), ("many.db", grown_file))
    )
    assert many <= 1.2 * few


def filled(engine: sa.Engine) -> set[tuple[str, str]]:
    """The columns that hold something in a row or another, with their tables."""
    found = set()
    with engine.connect() as connection:
        for table in db.Base.metadata.sorted_tables:
            counts = [sa.func.count(column) for column in table.columns]
            row = connection.execute(sa.select(*counts)).one()
            found |= {
                (table.name, column.name)
                for column, count in zip(table.columns, row, strict=True)
                if count
            }
    return found


def test_a_grown_ledger_has_what_a_real_study_leaves(bench, study, grown_file):
    _follow(Desk(bench.sessions, bench.site.settings))
    engine = db.connect(f"sqlite:///{grown_file}")
    left = filled(bench.sessions.kw["bind"]) - filled(engine)
    engine.dispose()
    assert left == set()
