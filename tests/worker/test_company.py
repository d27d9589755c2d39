"""Bulk studies are analysed together; live ones, and those tried before, alone."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from dicom_node import backlog, db, ledger, pauses, schema
from dicom_node.db import now
from dicom_node.errors import ModelIntegrityError, TransientError
from dicom_node.study import Reason, StudyState
from dicom_node.tables import Pausable, StudyRow
from tests import dicom_objects
from tests.chaos.triggers import Order, Orders
from tests.worker.test_replay import run as replay_command
from tests.worker.test_tasks import activate_all
from worker import company
from worker.replay import CLOSE, EXACT, Archive, replay
from worker.tasks.analysis import analyze

BOX = (18.0, 28.0, 46.0, 52.0)


def bulk(bench, name, *, marked=True):
    """Queue a study that lets other work pass."""
    slices = dicom_objects.fresh_study(name)
    mark = [dicom_objects.gsps_rectangle([slices[4]], BOX)] if marked else []
    uid = bench.receive(*slices, *mark)
    bench.queue(uid)
    with bench.sessions.begin() as session:
        ledger.requeue(session, uid, now(), "again", bulk=True)
    return uid


@pytest.fixture
def many(bench):
    return [bulk(bench, name) for name in ("first", "second", "third")]


@pytest.fixture
def live(bench):
    """A function that queues a study that has just come."""

    def come(name="live"):
        slices = dicom_objects.fresh_study(name)
        uid = bench.receive(*slices, dicom_objects.gsps_rectangle([slices[4]]))
        bench.queue(uid)
        return uid

    return come


@pytest.fixture
def meanwhile(source):
    """A source of the cascade that does something at its n-th call first."""

    def of(number, act):
        calls = iter(range(1, 100))

        def source_(sessions):
            if next(calls) == number:
                act()
            return source(sessions)

        return source_

    return of


def states(bench, uids):
    return [bench.study(uid).state for uid in uids]


def batches(bench, uids):
    return [one.stages[0].batch for uid in uids for one in bench.results(uid)]


def test_one_message_takes_the_bulk_studies_that_wait(bench, many, source):
    results = analyze(many[0], bench.site, source)

    assert len(results) == len(many)
    assert batches(bench, many) == ["3x3x64x64"] * 3
    assert states(bench, many) == [StudyState.ANALYZED] * 3
    assert [bench.study(uid).attempts for uid in many] == [1] * 3
    assert analyze(many[1], bench.site, source) == ()
    assert analyze(many[2], bench.site, source) == ()


def test_a_result_of_a_batch_is_replayed_and_says_why_it_may_differ(
    bench, many, source
):
    archive = Archive(bench.sessions, bench.site.spool, bench.site.settings.models)
    result_id, *_ = analyze(many[0], bench.site, source)

    found = replay(result_id, archive)
    printed = replay_command(bench, result_id)

    (stage,) = found.stages
    assert found.holds
    assert stage.criterion == CLOSE
    assert stage.why == "batch was 3x3x64x64, is 1x3x64x64"
    assert printed.returncode == 0, printed.stderr


def test_a_bulk_study_without_company_has_the_bits_of_a_live_one(bench, source):
    archive = Archive(bench.sessions, bench.site.spool, bench.site.settings.models)
    (result_id,) = analyze(bulk(bench, "only"), bench.site, source)

    (stage,) = replay(result_id, archive).stages

    assert stage.criterion == EXACT
    assert stage.holds


def test_a_live_study_is_alone(bench, many, live, source):
    uid = live()

    analyze(uid, bench.site, source)

    assert batches(bench, [uid]) == ["1x3x64x64"]
    assert states(bench, many) == [StudyState.QUEUED] * 3


def test_while_a_live_study_waits_bulk_ones_are_alone(bench, many, live, source):
    uid = live()

    analyze(many[0], bench.site, source)

    assert batches(bench, many) == ["1x3x64x64"]
    assert bench.study(uid).state is StudyState.QUEUED


def test_a_live_study_that_comes_ends_the_claiming(bench, many, live, meanwhile):
    analyze(many[0], bench.site, meanwhile(2, live))

    assert batches(bench, many) == ["2x3x64x64"] * 2
    assert states(bench, many)[2] is StudyState.QUEUED


def test_a_pause_ends_the_claiming(bench, many, meanwhile):
    def stop():
        with bench.sessions.begin() as session:
            pauses.pause(session, Pausable.ANALYSIS, "a new GPU", "anna", now())

    analyze(many[0], bench.site, meanwhile(1, stop))

    assert batches(bench, many) == ["1x3x64x64"]
    assert states(bench, many[1:]) == [StudyState.QUEUED] * 2


def test_no_more_are_taken_than_share_a_pass(bench, many, source, monkeypatch):
    monkeypatch.setattr(company, "AT_ONCE", 2)

    analyze(many[1], bench.site, source)

    assert batches(bench, many) == ["2x3x64x64"] * 2
    assert states(bench, many)[2] is StudyState.QUEUED  # it came last


def die_over(bench, uid):
    """A worker claims a study and is not heard of again."""
    with bench.sessions.begin() as session:
        ledger.claim(session, uid, "dead", timedelta(0), now())
        ledger.expire_leases(session, now())


def test_what_was_tried_before_is_neither_taken_along_nor_takes_others(
    bench, many, source
):
    die_over(bench, many[1])

    analyze(many[0], bench.site, source)
    assert states(bench, many)[1] is StudyState.QUEUED
    fourth = bulk(bench, "fourth")
    analyze(many[1], bench.site, source)

    assert batches(bench, many) == ["2x3x64x64", "1x3x64x64", "2x3x64x64"]
    assert bench.study(fourth).state is StudyState.QUEUED


def test_where_one_death_fails_a_study_nobody_is_taken_along(bench, many, source):
    settings = bench.site.settings.model_copy(update={"max_attempts": 1})
    with bench.sessions.begin() as session:
        claim = ledger.claim(session, many[0], "test", timedelta(1), now())

    assert list(company.along(claim, bench.sessions, settings, "test")) == []


def test_what_was_given_back_waits_for_its_own_message(bench, many):
    with bench.sessions.begin() as session:
        claim = ledger.claim(session, many[1], "test", timedelta(1), now())
        ledger.give_back(session, claim, now(), "the disk is full", transient=True)
        assert backlog.untried_bulk(session, 9) == [many[0], many[2]]


def test_what_was_announced_waits_for_its_own_message(bench, many, source):
    with bench.sessions.begin() as session:
        ledger.announced(session, [many[1]], now())

    analyze(many[0], bench.site, source)

    assert batches(bench, [many[0], many[2]]) == ["2x3x64x64"] * 2
    assert len(analyze(many[1], bench.site, source)) == 1


def test_postgresql_gives_the_same_studies_in_order(postgres_url):
    schema.upgrade(postgres_url)
    engine = db.connect(postgres_url)
    with db.writing(engine).begin() as session:
        for number, values in enumerate(
            [{}, {"bulk": False}, {"attempts": 1}, {"announced_at": now()}, {}]
        ):
            session.add(waiting(f"1.2.{number}", now() - timedelta(number), **values))
    with db.reading(engine)() as session:
        assert backlog.untried_bulk(session, 9) == ["1.2.4", "1.2.0"]
        assert backlog.live_waits(session)
    engine.dispose()


def waiting(uid, queued_at, **values):
    row = {
        "study_uid": uid,
        "state": StudyState.QUEUED,
        "patient_key": "a" * 64,
        "calling_ae": "PACS",
        "received_at": queued_at,
        "last_received_at": queued_at,
        "quiet_until": queued_at,
        "queued_at": queued_at,
        "instances": 1,
        "revision": 1,
        "attempts": 0,
        "bulk": True,
    }
    return StudyRow(**row | values)


def test_another_process_takes_from_the_same_studies(bench, many):
    with bench.sessions.begin() as session:
        claim = ledger.claim(session, many[0], "one", timedelta(1), now())
    others = company.along(claim, bench.sessions, bench.site.settings, "one")

    assert next(others).study_uid == many[1]
    with bench.sessions.begin() as session:
        ledger.claim(session, many[2], "two", timedelta(1), now())

    assert list(others) == []
    assert bench.study(many[2]).claimed_by == "two"


def test_the_claim_on_the_last_ends_after_that_on_the_first(bench, many):
    with bench.sessions.begin() as session:
        lease = bench.site.settings.lease
        claim = ledger.claim(session, many[0], "test", lease, now())
    list(company.along(claim, bench.sessions, bench.site.settings, "test"))

    ends = [bench.study(uid).lease_until for uid in many]
    assert ends == sorted(ends)


def test_what_the_archive_has_not_counted_is_not_taken(bench, many):
    with bench.sessions() as session:
        assert backlog.untried_bulk(session, 9, counted=True) == []
        assert not backlog.live_waits(session, counted=True)


def test_a_held_study_and_a_crash_leave_the_others_alone(bench, meanwhile):
    def crash():
        raise ZeroDivisionError

    first, crashing = bulk(bench, "first"), bulk(bench, "crashing")
    held, last = bulk(bench, "held", marked=False), bulk(bench, "last")

    analyze(first, bench.site, meanwhile(2, crash))

    assert batches(bench, [first, last]) == ["2x3x64x64"] * 2
    assert bench.study(held).reason is Reason.NO_ROI
    assert bench.study(crashing).state is StudyState.QUEUED
    assert bench.study(crashing).attempts == 1


@pytest.mark.parametrize("error", [TransientError, ModelIntegrityError])
def test_a_fault_of_the_place_ends_the_claiming_and_loses_nothing(
    bench, many, meanwhile, error
):
    def fail():
        raise error("not now")

    with pytest.raises(error):
        analyze(many[0], bench.site, meanwhile(2, fail))

    assert states(bench, many) == [
        StudyState.ANALYZED,
        StudyState.QUEUED,
        StudyState.QUEUED,
    ]
    assert [bench.study(uid).attempts for uid in many] == [1, 0, 0]


def test_an_instance_that_comes_voids_the_result_of_its_study_alone(
    bench, many, meanwhile
):
    extra = dicom_objects.fresh_study("second")[0]
    mark = dicom_objects.gsps_rectangle([extra], (3, 3, 12, 12))

    analyze(many[0], bench.site, meanwhile(3, lambda: bench.receive(mark)))

    assert [len(bench.results(uid)) for uid in many] == [1, 0, 1]
    assert bench.study(many[1]).state is StudyState.RECEIVING


ARMED_WORKER = """
import sys
from pathlib import Path
from tests.chaos import triggers

triggers.arm("analysis", Path(sys.argv[1]))
from worker.tasks import analysis

analysis.analyze(sys.argv[2], analysis._site(), analysis._cascade_in_service)
"""


@pytest.mark.parametrize(
    ("point", "done"),
    [("analysis-claimed", 0), ("analysis-uncommitted", 1)],
)
def test_a_process_killed_in_mid_batch_loses_nothing_and_doubles_nothing(
    bench, many, source, tmp_path, point, done
):
    activate_all(bench)
    orders = Orders(tmp_path / "orders")
    orders.give(Order(point, 2))
    settings = bench.site.settings

    died = subprocess.run(
        [sys.executable, "-c", ARMED_WORKER, str(orders.folder), many[0]],
        cwd=Path(__file__).parents[2],
        env={
            **os.environ,
            "SENTINODE_DATA_DIR": str(settings.data_dir),
            "SENTINODE_MODELS_DIR": str(settings.models),
        },
        capture_output=True,
        timeout=120,
        check=False,
    )

    assert died.returncode == -signal.SIGKILL, died.stderr
    assert states(bench, many).count(StudyState.ANALYZED) == done
    with bench.sessions.begin() as session:
        ledger.expire_leases(session, now() + settings.lease)
    for uid in many:
        analyze(uid, bench.site, source)
    assert states(bench, many) == [StudyState.ANALYZED] * 3
    assert [len(bench.results(uid)) for uid in many] == [1, 1, 1]
    assert batches(bench, many).count("1x3x64x64") == 3 - done
