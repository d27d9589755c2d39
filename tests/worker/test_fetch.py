"""Studies are got from real archives, by C-MOVE to our listener and by C-GET."""

import json

import pytest
from click.testing import CliRunner

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.listener import Listener
from dicom_node.settings import NodeSettings, load
from dicom_node.study import StudyUid
from tests import dicom_objects
from tests.peers import ORTHANC_AET, Dcmqrscp, Orthanc, dcmsend, wait_until
from worker.cli import main
from worker.retention import Store, purge_study

AET = "SENTINODE"
pytestmark = pytest.mark.e2e


@pytest.fixture
def listener(bench):
    settings = load(
        NodeSettings,
        data_dir=bench.site.settings.data_dir,
        host="127.0.0.1",
        port=0,
        allow=f"{ORTHANC_AET}@127.0.0.1",
        min_free_bytes=1,
        quiet_period=0,
    )
    running = Listener(settings, bench.sessions)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def orthanc(listener, tmp_path):
    options = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True}
    made = Orthanc(tmp_path / "orthanc", listener.port, options=options)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def run(bench):
    def call(*arguments, code=0, query=None):
        data_dir = ("--data-dir", str(bench.site.settings.data_dir))
        environment = {"SENTINODE_QUERY": str(query)} if query else {}
        runner = CliRunner(env=environment)
        done = runner.invoke(main, [*map(str, arguments), *data_dir])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.output

    return call


def put(archive, folder, *datasets):
    folder.mkdir(exist_ok=True)
    files = []
    for number, dataset in enumerate(datasets):
        path = folder / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    dcmsend(str(archive), *files, calling=AET)


def stored(bench, uid):
    with bench.sessions() as session:
        return {one.sop_instance_uid for one in ledger.instances(session, uid)}


@pytest.mark.parametrize("how", [(), ("--get",)], ids=["C-MOVE", "C-GET"])
def test_a_study_comes_from_orthanc(bench, orthanc, slices, mark, run, how, tmp_path):
    put(orthanc, tmp_path / "x", *slices, mark)
    uid = StudyUid(str(slices[0].StudyInstanceUID))
    ask = ("fetch", "--study", uid, "--from", orthanc)

    listed = run(*ask, "--modality", "", "--dry-run", "--json")
    assert [one["study_uid"] for one in listed] == [uid]
    assert stored_or_none(bench, uid) == set()

    done = run(*ask, "--yes", "--json", *how)
    assert done[0]["completed"] == len(slices) + 1
    assert done[0]["failed"] == 0
    expected = {str(one.SOPInstanceUID) for one in (*slices, mark)}
    wait_until(lambda: stored(bench, uid) == expected, "the rows", 10)


def stored_or_none(bench, uid):
    with bench.sessions() as session:
        known = {one.study_uid for one in ledger.studies(session)}
    return stored(bench, uid) if uid in known else set()


def test_a_study_comes_from_dcmtk_by_get(bench, slices, run, tmp_path):
    archive = Dcmqrscp(tmp_path / "dcmtk").start()
    try:
        put(archive, tmp_path / "x", *slices)
        uid = StudyUid(str(slices[0].StudyInstanceUID))
        done = run(
            *("fetch", "--study", uid, "--modality", "", "--from", archive),
            *("--get", "--yes", "--json"),
        )
        assert done[0]["completed"] == len(slices)
        assert len(stored(bench, uid)) == len(slices)
        # DCMTK's archive knows no address of ours, so a move is refused, with reason
        refused = run(
            *("fetch", "--study", uid, "--modality", "", "--from", archive, "--yes"),
            code=1,
        )
        assert "0xA801" in refused
    finally:
        archive.stop()


def test_dates_and_modality_narrow(orthanc, slices, run, tmp_path):
    put(orthanc, tmp_path / "x", *slices)
    day = str(slices[0].StudyDate)
    ask = ("fetch", "--from", orthanc, "--dry-run", "--json", "--date")
    assert len(run(*ask, day)) == 1
    assert len(run(*ask, f"{day}-{day}")) == 1
    assert run(*ask, "19000101-19000102") == []
    assert run(*ask, day, "--modality", "CT") == []


def test_the_listing_names_no_patient(orthanc, slices, run, tmp_path):
    put(orthanc, tmp_path / "x", *slices)
    text = run("fetch", "--from", orthanc, "--patient-id", "MARKER*", "--dry-run")
    assert str(slices[0].StudyInstanceUID) in text
    assert dicom_objects.PATIENT not in text
    assert "MARKER-PID-1" not in text


def test_an_archive_that_is_not_there_is_a_failure(run):
    done = run("fetch", "--study", "1.2.3", "--from", "PACS@127.0.0.1:9", code=1)
    assert "PACS@127.0.0.1:9" in done


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("fetch", "--from", "PACS@127.0.0.1:9"), 2),
        (("fetch", "--from", "PACS@127.0.0.1:9", "--date", "yesterday"), 2),
        (("fetch", "--from", "nowhere", "--study", "1.2.3"), 2),
        (("fetch", "--study", "1.2.3"), 2),
        (("fetch", "--study", "1.2*", "--from", "PACS@127.0.0.1:9"), 2),
        (("fetch", "--date", "20260301-20260201", "--from", "PACS@127.0.0.1:9"), 2),
    ],
)
def test_wrong_usage_is_said_before_anything_is_asked(bench, run, arguments, code):
    run(*arguments, code=code)


def test_purged_images_are_fetched_again_for_new_marks(
    bench, orthanc, slices, study, run, tmp_path
):
    put(orthanc, tmp_path / "x", *slices)
    store = Store(bench.sessions, bench.site.spool)
    purge_study(store, study, now())
    assert len(stored(bench, study)) == 1  # the mark alone

    done = run(
        *("studies", "reprocess", "--everything", "--from", "roi", "--refetch"),
        *("--yes", "--json"),
        query=orthanc,
    )

    assert done["refetched"] == {"studies": 1, "objects_failed": 0}
    whole = len(slices) + 1
    wait_until(lambda: len(stored(bench, study)) == whole, "the rows", 10)
