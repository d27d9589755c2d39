"""The whole life of a study whose files are in an object store."""

import io
import json
import uuid
from datetime import timedelta

import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode

from dicom_node import audit, db, ledger, replay, schema
from dicom_node.completion import QuietPeriods
from dicom_node.db import now
from dicom_node.errors import SpoolFullError
from dicom_node.findings import Slnd, StageStatus
from dicom_node.intake import StoreRequest
from dicom_node.settings import load
from dicom_node.shared_spool import spool_of
from dicom_node.spool import DOCUMENTS, INSTANCES, KEPT, QUARANTINE
from dicom_node.study import StudyState
from tests.worker.conftest import DEVICE, PACS, Bench
from tests.worker.test_purged import dissect
from worker import outcomes, retention
from worker.cli import main
from worker.erasure import erase
from worker.retention import Store
from worker.settings import WorkerSettings
from worker.tasks.analysis import Site, analyze


@pytest.fixture
def settings(tmp_path, quick_models, object_store) -> WorkerSettings:
    (tmp_path / "key").write_text("0123456789abcdef")
    return load(
        WorkerSettings,
        data_dir=tmp_path / "site",
        models_dir=quick_models,
        pacs=(PACS,),
        patient_key_secret_file=tmp_path / "key",
        store_url=f"s3://sentinode/{uuid.uuid4().hex}",
        store_endpoint=object_store.endpoint,
        store_credentials_file=object_store.folder / "credentials",
    )


@pytest.fixture
def bench(settings):
    schema.upgrade(settings.database)
    engine = db.connect(settings.database)
    site = Site(db.writing(engine), spool_of(settings), settings, DEVICE)
    site.spool.free_bytes()
    yield Bench(site)
    engine.dispose()


def objects(bench: Bench) -> int:
    return len([*bench.site.spool.iter_files(INSTANCES)])


def test_a_purged_study_goes_through_stage_two_and_is_replayed(
    bench, study, slices, source, settings, monkeypatch
):
    before = objects(bench)
    retention.purge_study(Store(bench.sessions, bench.site.spool), study, now())
    after = objects(bench)
    dissect(bench, study, Slnd.POSITIVE)
    (result_id,) = analyze(study, bench.site, source)
    with bench.sessions() as session:
        newest = outcomes.result(session, result_id)
    for name in ("store_url", "store_endpoint", "store_credentials_file", "models_dir"):
        monkeypatch.setenv(f"SENTINODE_{name.upper()}", str(getattr(settings, name)))
    replayed = CliRunner().invoke(
        main, ["doctor", "--json", "--data-dir", str(settings.data_dir)]
    )
    checks = {one["name"]: one["ok"] for one in json.loads(replayed.stdout)["checks"]}

    assert before == len(slices) + 1
    assert after == 1  # what a person drew
    assert newest.stages[1].status is StageStatus.DONE
    assert checks["object store"]
    assert checks["kept files"]


def test_an_analysis_without_the_store_is_given_back_and_done_later(
    bench, slices, mark, source, object_store
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    object_store.stop()
    try:
        with pytest.raises(SpoolFullError, match="object store"):
            analyze(uid, bench.site, source)
        waiting = bench.study(uid).state
    finally:
        object_store.start()
    (result_id,) = analyze(uid, bench.site, source)

    assert waiting is StudyState.QUEUED
    assert bench.study(uid).state is StudyState.ANALYZED
    assert result_id


def test_an_erased_study_leaves_nothing_in_the_store_nor_in_the_cache(
    bench, study, settings
):
    def stored() -> list:
        folders = (INSTANCES, QUARANTINE, DOCUMENTS, KEPT)
        return [path for one in folders for path in bench.site.spool.iter_files(one)]

    def cached() -> list:
        return [path for path in settings.spool.rglob("*") if path.is_file()]

    before = stored(), cached()
    erased = erase(
        bench.sessions, bench.site.spool, study, audit.trail_of(settings), "me"
    )

    assert all(before)
    assert erased.files == len(before[0])
    assert (stored(), cached()) == ([], [])


def test_an_object_whose_row_was_lost_with_its_listener_gets_one_from_another(
    bench, slices
):
    kept = [bench.intake.keep(request(one)) for one in slices[:2]]
    quiet = QuietPeriods(timedelta(0), {})
    found = replay.recover(bench.intake, bench.sessions, quiet, "other", now)
    with bench.sessions() as session:
        stored = ledger.instances(session, kept[0].study_uid)

    assert found == 2
    assert {one.sha256 for one in stored} == {one.sha256 for one in kept}


def request(dataset: Dataset) -> StoreRequest:
    syntax = dataset.file_meta.TransferSyntaxUID
    encoded = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
    return StoreRequest(
        sop_class_uid=dataset.SOPClassUID,
        sop_instance_uid=dataset.SOPInstanceUID,
        transfer_syntax_uid=syntax,
        calling_ae="PACS",
        dataset=io.BytesIO(encoded),
    )
