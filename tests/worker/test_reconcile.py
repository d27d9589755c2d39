"""Each fault is made for real, found, repaired, and found no more."""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.destination import Destination
from dicom_node.study import Peer, StudyState
from dicom_node.tables import (
    AssociationRow,
    DeliveryRow,
    DeliveryState,
    DocumentRow,
    EventRow,
    InstanceRow,
    StudyRow,
)
from tests import dicom_objects
from tests.peers import Orthanc
from worker.cli import main
from worker.tables import KeptRow
from worker.tasks import delivery
from worker.tasks.analysis import analyze

MR = "1.2.840.10008.5.1.4.1.1.4"
LONG_AGO = timedelta(days=2)


@pytest.fixture
def run(bench):
    def call(*arguments: str, code: int | None = None):
        settings = bench.site.settings
        where = ["--data-dir", str(settings.data_dir)]
        if settings.database_url is not None:
            where += ["--database-url", settings.database_url]
        environment = {"SENTINODE_PACS": ",".join(map(str, settings.pacs))}
        done = CliRunner(env=environment).invoke(main, [*arguments, *where])
        assert code is None or done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.output

    return call


@pytest.fixture
def reconcile(run):
    def call(*arguments: str, code: int = 0):
        return run("reconcile", "--no-pacs", "--json", *arguments, code=code)["counts"]

    return call


@pytest.fixture
def mended(reconcile):
    """Check that a fault is found, repaired and gone."""

    def check(expected: dict[str, int], *options: str) -> None:
        assert reconcile(*options, code=1) == expected
        assert reconcile(*options, code=1) == expected  # nothing was changed
        assert reconcile(*options, "--repair", "--yes") == expected
        assert reconcile(*options) == {}

    return check


def rows(bench, table, *conditions):
    with bench.sessions() as session:
        return session.scalars(sa.select(table).where(*conditions)).all()


def execute(bench, statement):
    with bench.sessions.begin() as session:
        session.execute(statement)


def path_of(bench, row) -> Path:
    return bench.site.spool.absolute(Path(row.path))


def image(bench):
    """An image that no result was computed on."""
    kept = {one.slice_sha256 for one in rows(bench, KeptRow)}
    return next(
        one
        for one in rows(bench, InstanceRow)
        if one.sha256 not in kept and one.sop_class_uid == MR
    )


def age(path: Path) -> None:
    then = (now() - LONG_AGO).timestamp()
    os.utime(path, (then, then))


def test_a_system_that_is_whole_has_no_findings(study, reconcile):
    assert reconcile() == {}
    assert reconcile("--digests") == {}


def test_a_missing_file_of_an_analysed_study_is_entered(bench, study, mended):
    row = image(bench)
    path_of(bench, row).unlink()
    mended({"file_missing": 1})
    assert bench.study(study).state is StudyState.ANALYZED
    (after,) = rows(
        bench, InstanceRow, InstanceRow.sop_instance_uid == row.sop_instance_uid
    )
    assert after.purged_at is not None


def test_an_image_that_is_still_needed_holds_its_study_until_it_comes_again(
    bench, slices, mark, source, mended
):
    uid = bench.receive(*slices, mark)
    bench.queue(uid)
    path_of(bench, image(bench)).unlink()
    mended({"file_missing": 1})
    held = bench.study(uid)
    assert (held.state, held.reason) == ("held", "incomplete")
    assert "send the whole study again" in held.detail

    bench.receive(*slices, mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    assert bench.study(uid).state is StudyState.ANALYZED


def test_a_truncated_file_is_set_aside(bench, slices, mark, mended):
    bench.receive(*slices, mark)
    path = path_of(bench, image(bench))
    path.write_bytes(path.read_bytes()[:1000])
    mended({"file_differs": 1})
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").stat().st_size == 1000


def test_changed_bytes_are_found_by_digest_alone(bench, study, reconcile, mended):
    path = path_of(bench, image(bench))
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert reconcile() == {}
    mended({"file_differs": 1}, "--digests")


def test_a_lost_row_is_rebuilt_from_its_file(bench, slices, mark, mended):
    uid = bench.receive(*slices, mark)
    row = image(bench)
    execute(
        bench,
        sa.delete(InstanceRow).where(
            InstanceRow.sop_instance_uid == row.sop_instance_uid
        ),
    )
    age(path_of(bench, row))
    mended({"row_missing": 1})
    with bench.sessions() as session:
        assert len(ledger.instances(session, uid)) == len(slices) + 1


def test_a_file_that_is_young_may_still_get_its_row(bench, study, reconcile):
    row = image(bench)
    execute(
        bench,
        sa.delete(InstanceRow).where(
            InstanceRow.sop_instance_uid == row.sop_instance_uid
        ),
    )
    os.utime(path_of(bench, row))
    assert reconcile() == {}


def test_garbage_among_the_instances_is_set_aside(bench, study, mended):
    path = path_of(bench, image(bench)).with_name(f"{'0' * 64}.dcm")
    path.write_bytes(b"no DICOM")
    age(path)
    mended({"row_missing": 1})
    assert path.with_name(f"{path.name}.unreadable").exists()


def test_a_lost_document_is_written_anew(bench, study, source, mended):
    row = next(one for one in rows(bench, DocumentRow) if one.kind == "SR")
    path_of(bench, row).unlink()
    mended({"document_missing": 1})
    (cancelled,) = rows(
        bench, DeliveryRow, DeliveryRow.sop_instance_uid == row.sop_instance_uid
    )
    assert cancelled.state is DeliveryState.CANCELLED
    assert bench.study(study).state is StudyState.QUEUED

    analyze(study, bench.site, source)

    assert bench.study(study).state is StudyState.ANALYZED
    newest, before = bench.results(study)
    assert newest.supersedes == before.result_id
    assert newest.stages[0].probability == before.stages[0].probability


def test_a_truncated_document_is_found(bench, study, mended):
    row = rows(bench, DocumentRow)[0]
    path = path_of(bench, row)
    path.chmod(0o640)
    path.write_bytes(path.read_bytes()[:-2])
    mended({"document_differs": 1})


def test_a_document_without_a_row_is_removed_after_an_hour(bench, study, mended):
    path = bench.site.settings.spool / "documents" / "ab" / f"{'ab' * 32}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"left behind")
    age(path)
    mended({"document_orphan": 1})
    assert not path.exists()


def test_a_lost_slice_is_kept_again_while_its_image_is_there(bench, study, mended):
    (row,) = rows(bench, KeptRow)
    path = bench.site.settings.spool / "kept" / row.slice_sha256[:2]
    (path / f"{row.slice_sha256}.dcm").unlink()
    mended({"kept_missing": 1})
    assert (path / f"{row.slice_sha256}.dcm").is_file()


def test_a_lost_crop_is_given_up_and_said(bench, study, mended):
    (row,) = rows(bench, KeptRow)
    (
        bench.site.settings.spool
        / "kept"
        / row.crop_sha256[:2]
        / f"{row.crop_sha256}.crop"
    ).unlink()
    mended({"kept_missing": 1})
    assert [one.what for one in rows(bench, EventRow)].count("lost") == 1


def test_a_result_without_its_report_is_written_anew(bench, study, source, mended):
    row = next(one for one in rows(bench, DocumentRow) if one.kind == "SR")
    uid = row.sop_instance_uid
    execute(bench, sa.delete(DeliveryRow).where(DeliveryRow.sop_instance_uid == uid))
    execute(bench, sa.delete(DocumentRow).where(DocumentRow.sop_instance_uid == uid))
    age(path_of(bench, row))
    mended({"document_orphan": 1, "report_missing": 1})


def test_a_lost_delivery_is_supplied(bench, study, mended):
    one = rows(bench, DeliveryRow)[0]
    execute(
        bench, sa.delete(DeliveryRow).where(DeliveryRow.delivery_id == one.delivery_id)
    )
    mended({"delivery_missing": 1})
    after = {(d.sop_instance_uid, d.destination) for d in rows(bench, DeliveryRow)}
    assert (one.sop_instance_uid, one.destination) in after


def test_results_from_before_a_destination_are_not_sent_there(bench, study, run):
    done = CliRunner(
        env={"SENTINODE_PACS": "PACS@127.0.0.1:9,NEW@127.0.0.1:10"}
    ).invoke(
        main,
        [
            *("reconcile", "--no-pacs", "--json", "--data-dir"),
            str(bench.site.settings.data_dir),
        ],
    )
    assert json.loads(done.stdout)["counts"] == {}


def stand(bench, uid, **values):
    execute(
        bench, sa.update(StudyRow).where(StudyRow.study_uid == uid).values(**values)
    )


@pytest.mark.parametrize(
    ("code", "state", "values"),
    [
        ("lease_expired", "analyzing", {"lease_until": LONG_AGO, "claim_token": "x"}),
        ("queued_long", "queued", {"queued_at": LONG_AGO, "announced_at": None}),
        ("queued_long", "queued", {"queued_at": LONG_AGO, "announced_at": LONG_AGO}),
        ("receiving_long", "receiving", {"quiet_until": LONG_AGO}),
    ],
)
def test_what_stands_still_is_moved_on(
    bench, slices, mark, mended, code, state, values
):
    uid = bench.receive(*slices, mark)
    times = {
        name: now() - value if isinstance(value, timedelta) else value
        for name, value in values.items()
    }
    stand(bench, uid, state=StudyState(state), **times)
    mended({code: 1})
    assert bench.study(uid).state is StudyState.QUEUED


def test_an_association_of_a_lost_listener_is_closed(bench, study, mended):
    with bench.sessions.begin() as session:
        session.add(
            AssociationRow(
                association_id="lost",
                listener="gone",
                calling_ae="PACS",
                peer_address="10.0.0.1",
                opened_at=now() - LONG_AGO,
            )
        )
    mended({"association_stale": 1})


def test_without_repair_nothing_is_changed(bench, study, run, tmp_path):
    path_of(bench, image(bench)).unlink()
    execute(bench, sa.delete(DeliveryRow))

    def state():
        with bench.sessions() as session:
            dump = "\n".join(session.connection().connection.iterdump())
        root = bench.site.settings.data_dir
        files = {
            str(one.relative_to(root)): one.read_bytes()
            for one in root.rglob("*")
            if one.is_file() and "sentinode.db" not in one.name
        }
        return dump, files, (root / "sentinode.db").read_bytes()

    before = state()
    run("reconcile", "--no-pacs", "--digests", code=1)
    run("reconcile", "--no-pacs", "--dry-run", code=1)
    assert state() == before


def test_no_name_is_in_what_is_said(bench, study, run):
    path_of(bench, image(bench)).unlink()
    text = run("reconcile", "--no-pacs", code=1)
    assert "file_missing" in text
    assert dicom_objects.PATIENT not in text


def test_repairs_are_in_the_audit_trail(bench, study, run, reconcile):
    path_of(bench, image(bench)).unlink()
    reconcile("--repair", "--yes")
    entries = run("audit", "list", "--study", study, "--json")
    assert [(one["what"], one["detail"]) for one in entries] == [
        ("reconcile", "file_missing")
    ]
    run("audit", "verify", code=0)


def test_both_ways_at_once_are_wrong_usage(run):
    run("reconcile", "--repair", "--dry-run", code=2)


def test_an_archive_that_is_not_there_is_said(bench, study, run):
    sent(bench, now() - LONG_AGO)
    done = run("reconcile", "--json", code=0)
    assert "PACS@127.0.0.1:9" in done["archives_not_asked"]


def sent(bench, at):
    execute(
        bench,
        sa.update(DeliveryRow).values(
            state=DeliveryState.SENT, sent_at=at, next_attempt_at=None
        ),
    )


@pytest.mark.e2e
def test_what_the_archive_lost_is_sent_again(
    tmp_path, quick_models, source, slices, mark, bench, run, monkeypatch
):
    orthanc = Orthanc(tmp_path / "orthanc", 1).start()
    try:
        settings = bench.site.settings.model_copy(
            update={"pacs": (Peer.parse(str(orthanc)),)}
        )
        object.__setattr__(bench.site, "settings", settings)
        uid = bench.receive(*slices, mark)
        bench.queue(uid)
        analyze(uid, bench.site, source)
        deliver(bench, settings.pacs[0])
        execute(
            bench,
            sa.update(DeliveryRow).values(sent_at=now() - timedelta(minutes=5)),
        )
        assert run("reconcile", "--json", code=0)["findings"] == []

        (lost,) = orthanc.instances(uid, "SR")
        orthanc.delete(f"/instances/{lost}")
        found = run("reconcile", "--json", code=1)
        assert found["counts"] == {"lost_at_archive": 1}
        done = run("reconcile", "--repair", "--yes", "--json", code=0)
        assert done["repaired"] == 1
        assert run("reconcile", "--json", code=0)["findings"] == []

        deliver(bench, settings.pacs[0])
        assert len(orthanc.instances(uid, "SR")) == 1
    finally:
        orthanc.stop()


def deliver(bench, peer: Destination) -> None:
    """Send what is due, as the delivery worker does."""
    site = delivery.Site(bench.sessions, bench.site.spool, bench.site.settings)
    delivery.deliver(str(peer), site)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_faults_are_found_and_mended_on_postgresql(bench, study, mended):
    path_of(bench, image(bench)).unlink()
    row = next(one for one in rows(bench, DocumentRow) if one.kind == "SR")
    path_of(bench, row).unlink()
    mended({"file_missing": 1, "document_missing": 1})


@pytest.fixture
def database_url(request) -> str | None:
    if getattr(request, "param", None) is None:
        return None
    return request.getfixturevalue("postgres_url")
