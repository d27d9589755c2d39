"""Faults are told once to a real web service, and once when they are over."""

import json
import threading
from datetime import timedelta

import pytest
from sqlalchemy import text, update

from dicom_node.db import now
from dicom_node.tables import DeliveryRow
from tests import monitored
from tests.hooks import Hook
from tests.peers import wait_until
from worker.metrics import scraper
from worker.monitor import watch
from worker.monitor.readiness import Check
from worker.monitor.watch import Watch

SECRET = "a shared secret of both"  # noqa: S105 - of the test alone
GOOD = Check("workers", ok=True, detail="")
BAD = Check("workers", ok=False, detail="no analysis worker answers")


@pytest.fixture
def hook():
    with Hook() as one:
        yield one


@pytest.fixture
def checks():
    return [GOOD]


@pytest.fixture
def watcher(bench, hook, checks, monkeypatch):
    monkeypatch.setattr(scraper, "FRESH_S", 0.0)
    monkeypatch.setattr(scraper, "SHARE", 0.0)
    monkeypatch.setattr("worker.monitor.readiness.STALE_S", 0.0)
    monkeypatch.setattr("worker.monitor.readiness.FRESH_S", 0.0)
    return Watch(settings_of(bench, hook), monitored.sources_of(bench, checks))


def settings_of(bench, hook):
    secret = bench.site.settings.data_dir / "secret"
    secret.write_text(SECRET)
    update = {"webhook_url": hook.url, "webhook_secret_file": secret}
    return bench.site.settings.model_copy(update=update)


def said(hook) -> list[tuple[list[str], list[str]]]:
    """Kinds that were opened and resolved, post by post."""
    posts = [json.loads(each.body) for each in hook.taken]
    return [
        ([one["what"] for one in post["opened"]], [x["what"] for x in post["resolved"]])
        for post in posts
    ]


def test_nothing_is_posted_while_nothing_is_wrong(watcher, hook):
    watcher.tell()

    assert hook.taken == []


def test_a_failed_study_is_told_once_and_when_it_is_over(bench, watcher, hook, slices):
    uid = monitored.failed_study(bench)
    watcher.tell()
    watcher.tell()
    with bench.sessions.begin() as session:
        session.execute(text("update study set state = 'analyzed', reason = null"))
    watcher.tell()
    watcher.tell()

    assert said(hook) == [(["study_failed"], []), ([], ["study_failed"])]
    opened, resolved = (json.loads(each.body) for each in hook.taken)
    assert opened["opened"][0]["id"] == resolved["resolved"][0]["id"]
    assert "X-Sentinode-Signature" in hook.taken[0].headers
    assert uid[-12:] in opened["text"]
    for each in hook.taken:
        assert uid not in each.body.decode()
        assert str(slices[0].PatientID) not in each.body.decode()


def test_what_was_told_outlives_the_process(bench, watcher, hook, checks):
    monitored.failed_study(bench)
    watcher.tell()
    Watch(settings_of(bench, hook), monitored.sources_of(bench, checks)).tell()

    assert len(hook.taken) == 1


def test_a_service_that_fails_first_gets_it_later(bench, watcher, hook, monkeypatch):
    monkeypatch.setattr(watch, "EVERY_S", 0.05)
    hook.answers = [503, 500]
    monitored.failed_study(bench)
    stopping = threading.Event()
    thread = threading.Thread(target=watcher.run, args=(stopping,))
    thread.start()
    try:
        wait_until(
            (bench.site.settings.data_dir / watch.TOLD_FILE).exists,
            "the delivery of the notification",
        )
    finally:
        stopping.set()
        thread.join(30)

    assert len(hook.taken) == 3
    assert said(hook)[-1] == (["study_failed"], [])


def test_pauses_grow_and_end_at_a_quarter_of_an_hour(bench, watcher, hook):
    hook.answers = [500] * 9
    monitored.failed_study(bench)

    pauses = [watcher.attempt() for _ in range(9)]

    assert pauses == [40, 80, 160, 320, 640, 900, 900, 900, 900]


def test_a_worker_that_is_gone_for_one_look_is_not_told(watcher, hook, checks):
    checks[0] = BAD
    watcher.tell()
    checks[0] = GOOD
    watcher.tell()
    checks[0] = BAD
    watcher.tell()
    assert hook.taken == []
    watcher.tell()
    watcher.tell()
    checks[0] = GOOD
    watcher.tell()

    assert said(hook) == [(["not_ready"], []), ([], ["not_ready"])]


def test_failed_deliveries_and_a_backlog_are_told(bench, study, watcher, hook):
    monitored.fail_delivery(bench)
    with bench.sessions.begin() as session:
        session.execute(
            update(DeliveryRow).values(due_since=now() - timedelta(hours=1))
        )
    watcher.tell()

    assert sorted(said(hook)[0][0]) == ["backlog", "delivery_failed"]


def test_while_the_database_is_away_nothing_is_called_over(bench, watcher, hook):
    monitored.failed_study(bench)
    watcher.tell()
    with bench.sessions.begin() as session:
        session.execute(text("alter table study rename to gone"))
    watcher.tell()
    with bench.sessions.begin() as session:
        session.execute(text("alter table gone rename to study"))
    watcher.tell()

    assert said(hook) == [(["study_failed"], [])]


def test_two_monitors_of_one_folder_tell_once(bench, watcher, tmp_path):
    path = tmp_path / "lock"
    with watch.alone_with(path) as first, watch.alone_with(path) as second:
        assert (first, second) == (True, False)


def test_a_file_that_is_not_ours_counts_as_empty(tmp_path):
    path = tmp_path / "notified.json"
    for content in ("", "[]", "{}", '{"a": 1}', "\x00"):
        path.write_text(content)
        assert watch.read(path) == {}
