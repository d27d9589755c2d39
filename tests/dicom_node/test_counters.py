"""Counts that several processes add to one table, and what a listener counts."""

import threading

import pytest
from sqlalchemy import text

from dicom_node import counters, db, schema
from dicom_node.counters import Counted, Counters

ONE = Counted("stores", "PACS", "0x0000")
TWO = Counted("stores", "other", "0xA700")


@pytest.fixture(params=["sqlite", "postgresql"])
def sessions(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'x.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    schema.upgrade(url)
    engine = db.connect(url)
    yield db.writing(engine)
    engine.dispose()


def stored(sessions):
    with sessions() as session:
        return counters.read(session)


def test_processes_add_to_each_other_and_survive_a_restart(sessions):
    first, second = Counters(sessions), Counters(sessions)
    first.add(ONE, 2)
    second.add(ONE)
    second.add(TWO)
    assert first.flush()
    assert second.flush()
    assert second.flush()
    again = Counters(sessions)
    again.add(ONE, 4)
    assert again.flush()

    assert stored(sessions) == {ONE: 7, TWO: 1}


def test_threads_that_write_at_once_lose_nothing(sessions):
    def work():
        each = Counters(sessions)
        for _ in range(10):
            each.add(TWO)
            each.add(ONE)
            each.flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert stored(sessions) == {ONE: 40, TWO: 40}


def test_counts_wait_while_the_database_is_away(sessions):
    each = Counters(sessions)
    each.add(ONE)
    with sessions.begin() as session:
        session.execute(text("alter table counter rename to gone"))
    assert not each.flush()
    each.add(ONE)
    with sessions.begin() as session:
        session.execute(text("alter table gone rename to counter"))
    assert each.flush()

    assert stored(sessions) == {ONE: 2}


def test_what_is_left_is_written_at_the_end(sessions):
    each = Counters(sessions)
    each.start()
    each.add(ONE)
    each.stop(30)

    assert stored(sessions) == {ONE: 1}
