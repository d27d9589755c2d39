"""A database away, locked or restarted: senders hear 0xA700, nothing is half done."""

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from dicom_node import db, ledger, recorder, schema
from dicom_node.db import now
from dicom_node.errors import LedgerUnavailableError
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load
from dicom_node.spool import Spool
from dicom_node.study import StudyState, StudyUid
from tests.dicom_node.conftest import CALLER, associate, dataset, store, store_all
from tests.outages.installation import Installation, write_study
from tests.peers import wait_until
from worker.tasks.analysis import analyze

OUT_OF_RESOURCES = 0xA700


@contextmanager
def serving(folder, url: str | None = None):
    """Run a listener; yield it with its spool and engine."""
    settings = load(
        NodeSettings,
        data_dir=folder,
        database_url=url,
        host="127.0.0.1",
        port=0,
        allow=CALLER,
        min_free_bytes=1,
    )
    schema.upgrade(settings.database)
    engine = db.connect(settings.database)
    listener = Listener(settings, db.writing(engine))
    listener.start()
    try:
        yield listener, Spool(settings.spool), engine
    finally:
        listener.stop()
        engine.dispose()


def entered(engine, *studies: str) -> int:
    with db.reading(engine)() as session:
        return sum(len(ledger.instances(session, StudyUid(uid))) for uid in studies)


def test_a_file_that_another_process_locks_for_too_long_is_out_of_resources(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(db, "SQLITE_BUSY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(recorder, "COMMIT_TIMEOUT_S", 3.0)
    with serving(tmp_path) as (listener, spool, engine):
        with locked(tmp_path / "sentinode.db"):
            assert store_all(listener.port, dataset(1)) == [OUT_OF_RESOURCES]
        assert store_all(listener.port, dataset(1)) == [0]
        wait_until(lambda: entered(engine, "1.2.3.4") == 1, "the row")
        assert len(list(spool.iter_files())) == 1


@contextmanager
def locked(file):
    """Hold the write lock of an SQLite file in another process."""
    code = (
        "import sqlite3, sys\n"
        "held = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "held.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"held\n"
        yield
        process.stdin.close()


def test_parallel_writers_keep_no_sender_from_storing(tmp_path):
    """Other processes write without a pause; no store is refused, none is lost."""
    code = (
        "import sys\n"
        "from dicom_node import counters, db\n"
        "from dicom_node.counters import Counted\n"
        "sessions = db.writing(db.connect(sys.argv[1]))\n"
        "for number in range(150):\n"
        "    with sessions.begin() as session:\n"
        "        counters.write(session, {Counted('x', 'y'): 1})\n"
    )
    studies = [f"1.2.3.{n}" for n in range(10, 14)]
    statuses: dict[str, list[int]] = {}

    def send(port: int, study: str) -> None:
        images = [dataset(n, study=study) for n in range(1, 21)]
        statuses[study] = store_all(port, *images)

    with serving(tmp_path) as (listener, _, engine):
        command = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'sentinode.db'}"]
        writers = [
            subprocess.Popen(command, stderr=subprocess.PIPE, env=dict(os.environ))
            for _ in range(3)
        ]
        senders = [
            threading.Thread(target=send, args=(listener.port, each))
            for each in studies
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join(120)
        said = [writer.communicate(timeout=120)[1] for writer in writers]
        assert [writer.returncode for writer in writers] == [0, 0, 0], said
        assert statuses == dict.fromkeys(studies, [0] * 20)
        wait_until(lambda: entered(engine, *studies) == 80, "the rows")
        with sqlite3.connect(tmp_path / "sentinode.db") as connection:
            (count,) = connection.execute(
                "SELECT value FROM counter WHERE name = 'x'"
            ).fetchone()
        connection.close()
        assert count == 450


def test_a_server_that_stops_in_mid_association_leaves_nothing_half_written(
    own_postgres, tmp_path
):
    url = own_postgres.create()
    with serving(tmp_path, url) as (listener, spool, engine):
        association = associate(listener.port)
        first, second = dataset(1), dataset(1, study="1.2.3.5")
        assert store(association, first) == [0]
        own_postgres.stop()
        assert store(association, second) == [OUT_OF_RESOURCES]
        assert store(association, dataset(2)) == [OUT_OF_RESOURCES]
        own_postgres.start()
        assert store(association, dataset(2), second) == [0, 0]
        association.release()
        wait_until(lambda: entered(engine, "1.2.3.4", "1.2.3.5") == 3, "the rows")
        assert len(list(spool.iter_files())) == 3


def test_a_database_that_goes_away_costs_a_study_no_attempt(
    bench, slices, mark, source, monkeypatch
):
    monkeypatch.setattr(db, "SQLITE_BUSY_TIMEOUT_S", 0.3)
    bench.sessions.kw["bind"].dispose()
    engine = db.connect(bench.site.settings.database)
    bench.sessions.configure(bind=engine)
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    held = locked(bench.site.settings.data_dir / "sentinode.db")

    def lock_and_serve(sessions):
        held.__enter__()
        return source(sessions)

    with pytest.raises((LedgerUnavailableError, OperationalError)):
        analyze(uid, bench.site, lock_and_serve)
    held.__exit__(None, None, None)
    later = now() + bench.site.settings.lease + timedelta(seconds=1)
    with bench.sessions.begin() as session:
        ledger.expire_leases(session, later)
    analyze(uid, bench.site, source)
    study = bench.study(uid)
    engine.dispose()
    assert study.state is StudyState.ANALYZED
    assert len(bench.results(uid)) == 1


@pytest.mark.e2e
def test_a_server_that_restarts_under_load_loses_and_doubles_nothing(
    own_postgres, tmp_path, quick_models
):
    url = own_postgres.create()
    installation = Installation.of(tmp_path, quick_models, SENTINODE_DATABASE_URL=url)
    try:
        pause = threading.Event()
        sending = threading.Thread(
            target=send_until_taken, args=(installation, tmp_path)
        )
        sending.start()
        for seconds in (0.4, 1.5, 0.7):
            pause.wait(seconds)
            own_postgres.stop()
            pause.wait(seconds)
            own_postgres.start()
        sending.join(90)
        installation.assert_nothing_lost_or_doubled(again=True)
        assert installation.answers.keys() <= {0x0000, OUT_OF_RESOURCES}
    finally:
        installation.stop()


def send_until_taken(installation: Installation, folder) -> None:
    """Send studies as a modality does: what is refused is sent again."""
    for number in range(5):
        uid, files = write_study(folder / "made" / str(number), f"restart-{number}")
        installation.send_until_taken(uid, files)
