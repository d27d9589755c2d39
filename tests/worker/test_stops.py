"""What a person stops stays stopped, whatever arrives, and nothing of it leaves."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner

from dicom_node import holds, ledger, outbox, pauses
from dicom_node.db import now
from dicom_node.errors import StudyNotFoundError, StudyStateError
from dicom_node.statuses import SendOutcome
from dicom_node.study import Reason, StudyState, StudyUid
from dicom_node.tables import Pausable
from worker import queues
from worker.cli import main
from worker.tasks import delivery
from worker.tasks.analysis import analyze
from worker.tasks.dispatch import sweep

LEASE = timedelta(minutes=1)
DESTINATION = "PACS@127.0.0.1:9"


def stop(bench, how, uid, why="consent withdrawn"):
    with bench.sessions.begin() as session:
        how(session, uid, why, "anna", now())


def due(bench):
    with bench.sessions.begin() as session:
        return outbox.claim(session, DESTINATION, LEASE, now(), 10)


@pytest.mark.parametrize(
    ("how", "state"),
    [(holds.hold, StudyState.HELD), (holds.ignore, StudyState.IGNORED)],
)
def test_new_objects_do_not_reopen_a_stopped_study(bench, slices, mark, how, state):
    uid = bench.receive(*slices)
    stop(bench, how, uid)

    bench.receive(mark)

    found = bench.study(uid)
    assert (found.state, found.reason) == (state, Reason.BY_HAND)
    assert "consent withdrawn" in found.detail
    assert "anna" in found.detail
    assert found.instances == len(slices) + 1
    with bench.sessions() as session:
        assert ledger.events(session, uid)[-1].what == "noted"


def test_nothing_of_a_held_study_leaves_until_it_is_requeued(bench, study, source):
    stop(bench, holds.hold, study)
    assert due(bench) == []

    with bench.sessions.begin() as session:
        ledger.requeue(session, study, now(), "released")
    analyze(study, bench.site, source)

    assert bench.study(study).state is StudyState.ANALYZED
    assert [one.kind for one in due(bench)] == ["SR", "SC"]


def test_an_analysis_that_runs_is_dropped(bench, slices, mark):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    with bench.sessions.begin() as session:
        claim = ledger.claim(session, uid, "worker", LEASE, now())
    stop(bench, holds.hold, uid)
    with bench.sessions.begin() as session:
        assert not ledger.finish(session, claim, StudyState.ANALYZED, now())
    assert bench.study(uid).reason is Reason.BY_HAND


def test_a_study_is_stopped_once(bench, study):
    stop(bench, holds.hold, study)
    with pytest.raises(StudyStateError, match="already"):
        stop(bench, holds.hold, study)
    stop(bench, holds.ignore, study)
    assert bench.study(study).state is StudyState.IGNORED


def test_an_unknown_study_is_not_found(bench):
    with pytest.raises(StudyNotFoundError):
        stop(bench, holds.hold, StudyUid("1.2.3"))


def switch(bench, name, *args):
    with bench.sessions.begin() as session:
        getattr(pauses, name)(session, *args, now())


def test_a_paused_queue_lets_nothing_begin_and_then_goes_on(
    bench, slices, mark, source, settings
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    switch(bench, "pause", Pausable.ANALYSIS, "new driver", "anna")

    sweep(bench.sessions, bench.broker, settings, now())
    assert queues.ANALYZE not in [name for name, _ in bench.sent]
    assert analyze(uid, bench.site, source) == ()  # a message from before the pause
    assert bench.study(uid).state is StudyState.QUEUED

    switch(bench, "resume", Pausable.ANALYSIS, "anna")
    sweep(bench.sessions, bench.broker, settings, now())
    assert (queues.ANALYZE, [uid]) in bench.sent
    assert analyze(uid, bench.site, source)


def test_a_paused_delivery_sends_nothing(bench, study, settings):
    switch(bench, "pause", Pausable.DELIVERY, "the PACS moves", "anna")

    sweep(bench.sessions, bench.broker, settings, now())
    assert queues.DELIVER not in [name for name, _ in bench.sent]
    site = delivery.Site(bench.sessions, bench.site.spool, settings)
    delivery.deliver(DESTINATION, site)
    with bench.sessions() as session:
        assert {one.attempts for one in outbox.deliveries(session)} == {0}

    switch(bench, "resume", Pausable.DELIVERY, "anna")
    sweep(bench.sessions, bench.broker, settings, now())
    assert (queues.DELIVER, [DESTINATION]) in bench.sent


def test_a_pause_ends_a_round_of_deliveries_after_its_batch(
    bench, study, settings, monkeypatch
):
    monkeypatch.setattr(delivery, "BATCH", 1)
    batches = []

    def send(target, this):
        batches.append(len(this.files))
        switch(bench, "pause", Pausable.DELIVERY, "the PACS moves", "anna")
        for path in this.files:
            yield SendOutcome(path, None, 0x0000, None)

    monkeypatch.setattr(delivery, "_exchange", send)
    delivery.deliver(
        DESTINATION, delivery.Site(bench.sessions, bench.site.spool, settings)
    )

    assert batches == [1]


def test_the_command_line_stops_and_pauses(bench, study, settings, monkeypatch):
    def run(*arguments):
        data_dir = ("--data-dir", str(settings.data_dir))
        return CliRunner().invoke(main, [*arguments, *data_dir])

    assert run("studies", "hold", study, "--why", "look").exit_code == 0
    assert run("studies", "hold", study, "--why", "look").exit_code == 4
    assert run("studies", "hold", "1.2.3", "--why", "look").exit_code == 3
    assert run("studies", "requeue", study).exit_code == 0
    paused = run("queue", "pause", "analysis", "--why", "driver", "--json")
    assert json.loads(paused.stdout) == {"queue": "analysis", "paused": True}
    assert run("queue", "pause", "analysis", "--why", "driver").exit_code == 4
    shown = json.loads(run("queue", "status", "--json").stdout)
    assert shown["analysis"]["queued"] == 1
    assert shown["paused"]["analysis"]["note"] == "driver"
    assert shown["messages"] == {"analysis": None, "delivery": None, "dispatch": None}
    assert run("queue", "resume", "analysis").exit_code == 0
    assert run("queue", "resume", "analysis").exit_code == 4
