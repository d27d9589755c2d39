"""The disk: refused before it is full, and whole when it is full all the same."""

import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from dicom_node import db, ledger, schema
from dicom_node.db import now
from dicom_node.errors import TransientError
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load
from dicom_node.spool import PARTIAL_SUFFIX, Spool
from dicom_node.study import StudyState
from tests.dicom_node.conftest import CALLER, STUDY, dataset, store_all
from tests.outages.volumes import Ballast, small_volume
from tests.peers import wait_until
from worker import runtime
from worker.app import TIDY_EVERY_S, create_app
from worker.tasks import dispatch
from worker.tasks.analysis import analyze

MIB = 2**20
OUT_OF_RESOURCES = 0xA700
LARGE = bytes(400_000)


@pytest.fixture
def volume(tmp_path):
    with small_volume(tmp_path / "volume", 16) as folder:
        yield folder


def serve(folder, **changes):
    """Run a listener; unless said otherwise its database lies beside its spool."""
    settings = load(
        NodeSettings,
        data_dir=folder,
        host="127.0.0.1",
        port=0,
        allow=CALLER,
        **{"min_free_bytes": 1, **changes},
    )
    schema.upgrade(settings.database)
    engine = db.connect(settings.database)
    listener = Listener(settings, db.writing(engine))
    listener.start()
    return listener, Spool(settings.spool), engine


def images(numbers):
    return [dataset(n, PixelData=LARGE) for n in numbers]


def drafts(spool: Spool) -> list:
    return list(spool.root.glob(f"**/*{PARTIAL_SUFFIX}"))


def whole_files(spool: Spool) -> int:
    """Count the files of instances; each must be one that was written to its end."""
    found = list(spool.iter_files())
    assert all(spool.describe(path).size > len(LARGE) for path in found)
    return len(found)


def rows(engine) -> int:
    with db.reading(engine)() as session:
        return len(ledger.instances(session, STUDY))


def test_stores_are_refused_before_the_volume_is_full_and_taken_after(volume):
    reserve = 6 * MIB
    listener, spool, engine = serve(volume, min_free_bytes=reserve)
    statuses = store_all(listener.port, *images(range(1, 40)))
    kept = statuses.count(0)
    free = spool.free_bytes()
    assert 0 < kept < 39
    assert set(statuses[kept:]) == {OUT_OF_RESOURCES}
    assert reserve - MIB < free  # a database and its log grow, an image never passes
    assert (whole_files(spool), drafts(spool)) == (kept, [])
    wait_until(lambda: rows(engine) == kept, "the rows")
    shutil.rmtree(spool.root / "instances")
    assert store_all(listener.port, *images([40])) == [0]
    listener.stop()
    engine.dispose()


def test_a_spool_that_is_not_there_means_come_back_later(tmp_path):
    listener, spool, engine = serve(tmp_path / "node")
    spool.root.rename(tmp_path / "not mounted")
    assert store_all(listener.port, *images([1])) == [OUT_OF_RESOURCES]
    (tmp_path / "not mounted").rename(spool.root)
    assert store_all(listener.port, *images([1])) == [0]
    listener.stop()
    engine.dispose()


def test_a_volume_that_runs_full_in_mid_file_leaves_nothing_of_it(volume):
    listener, spool, engine = serve(volume, min_free_bytes=0)
    assert store_all(listener.port, *images([1])) == [0]
    ballast = Ballast(volume)
    ballast.fill(spare=len(LARGE) // 2)
    assert store_all(listener.port, *images([2])) == [OUT_OF_RESOURCES]
    assert (whole_files(spool), drafts(spool)) == (1, [])
    ballast.drop()
    assert store_all(listener.port, *images([2])) == [0]
    wait_until(lambda: rows(engine) == 2, "the rows")
    listener.stop()
    engine.dispose()


def test_a_database_on_a_full_volume_refuses_studies_and_stays_whole(volume, tmp_path):
    url = f"sqlite:///{volume / 'sentinode.db'}"
    listener, spool, engine = serve(tmp_path / "node", database_url=url)
    assert store_all(listener.port, *images([1])) == [0]
    wait_until(lambda: rows(engine) == 1, "the row")
    ballast = Ballast(volume)
    ballast.fill()
    fill_log(volume)
    other = dataset(1, study="1.2.3.5", PixelData=LARGE)
    assert store_all(listener.port, other) == [OUT_OF_RESOURCES]
    ballast.drop()
    assert store_all(listener.port, other) == [0]
    wait_until(lambda: not listener._recorder.failing, "the rows")  # noqa: SLF001 - the only sign of it
    listener.stop()
    engine.dispose()
    with sqlite3.connect(volume / "sentinode.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM instance").fetchone() == (2,)
    connection.close()
    assert whole_files(spool) == 2


def fill_log(volume) -> None:
    """Use up what the write-ahead log has room for, until a write fails."""
    connection = sqlite3.connect(volume / "sentinode.db", isolation_level=None)
    query = "UPDATE study SET detail = hex(randomblob(3000))"
    fails = False
    while not fails:
        try:
            connection.execute(query)
        except sqlite3.OperationalError as error:
            fails = "full" in str(error)
    connection.close()


def test_a_limit_on_files_leaves_nothing_either(tmp_path):
    """The same where no file system can be mounted: the kernel refuses to go on."""
    code = (
        "import resource, signal\n"
        "from pathlib import Path\n"
        "from dicom_node.errors import SpoolFullError\n"
        "from dicom_node.spool import Spool\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "spool = Spool(Path('spool'))\n"
        "try:\n"
        "    spool.place(Path('kept/aa/x.f32'), bytes(200_000))\n"
        "except SpoolFullError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "File too large" in done.stdout
    assert [path for path in (tmp_path / "spool").rglob("*") if path.is_file()] == []


@pytest.fixture(params=["spool", "spool and database"])
def full_site(request, bench, slices, mark, volume):
    """A site with a queued study, whose spool lies on a volume that is full."""
    folder = volume / "site"
    settings = bench.site.settings.model_copy(update={"data_dir": folder})
    engine = bench.sessions.kw["bind"]
    if request.param != "spool":
        schema.upgrade(settings.database)
        engine = db.connect(settings.database)
    settings.spool.mkdir(parents=True)
    site = replace(
        bench.site,
        sessions=db.writing(engine),
        spool=Spool(settings.spool),
        settings=settings,
    )
    bench.site = site
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    ballast = Ballast(volume)
    ballast.fill()
    yield bench, uid, ballast
    engine.dispose()


def test_an_analysis_on_a_full_volume_is_done_when_there_is_room_again(
    full_site, source
):
    bench, uid, ballast = full_site
    with pytest.raises((TransientError, OperationalError)):
        analyze(uid, bench.site, source)
    assert drafts(bench.site.spool) == []
    assert bench.results(uid) == []
    ballast.drop()
    with bench.sessions.begin() as session:
        ledger.expire_leases(session, now() + bench.site.settings.lease)
    analyze(uid, bench.site, source)
    assert bench.study(uid).state is StudyState.ANALYZED
    assert len(bench.results(uid)) == 1


def test_drafts_are_swept_every_hour_and_older_ones_at_the_start(bench, monkeypatch):
    settings, spool = bench.site.settings, bench.site.spool
    assert create_app(settings).conf.beat_schedule["tidy"]["schedule"] == TIDY_EVERY_S
    monkeypatch.setattr(runtime, "spool", lambda: spool)
    draft = spool.root / f".0{PARTIAL_SUFFIX}"
    draft.write_bytes(b"half")
    dispatch.run_tidy()
    assert draft.exists()  # somebody may be writing it
    monkeypatch.setattr(dispatch, "DRAFT_AGE", timedelta(0))
    dispatch.run_tidy()
    assert not draft.exists()
