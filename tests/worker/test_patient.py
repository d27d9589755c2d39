"""After an erasure nothing names the patient but the audit trail; others keep all."""

import json
import os
import shutil
import sqlite3
import subprocess
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from pynetdicom.dsutils import encode

from dicom_node import ledger
from dicom_node.db import Base, now
from dicom_node.findings import Laterality
from dicom_node.intake import StoreRequest
from dicom_node.tables import (
    AssociationRow,
    AssociationStudyRow,
    AuditRow,
    DeliveryRow,
    InstanceRow,
    StudyRow,
)
from tests import dicom_objects
from tests.pathology_messages import order
from tests.pathology_site import parked, send
from worker import scrubbing
from worker.cli import main
from worker.tables import ClinicalRow, PatientRoleRow, SnapshotRow
from worker.tasks.analysis import analyze

IDENTITY = ("Erasable^Erna", "ERASE-ME-77", "19610611")


@pytest.fixture
def database_url(request):
    """SQLite, if a test does not ask for both: what a deletion leaves differs."""
    kind = getattr(request, "param", "sqlite")
    return request.getfixturevalue("postgres_url") if kind != "sqlite" else None


@pytest.fixture
def run(bench):
    settings = bench.site.settings

    def call(*arguments: str, code: int = 0, stdin: str | None = None):
        where = ["--data-dir", str(settings.data_dir)]
        if settings.database_url:
            where += ["--database-url", settings.database_url]
        done = CliRunner().invoke(main, ["patient", "erase", *arguments, *where], stdin)
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in arguments else done.output

    return call


def of(datasets, identity=IDENTITY):
    name, patient_id, birth = identity
    for one in datasets:
        one.PatientName, one.PatientID, one.PatientBirthDate = name, patient_id, birth
    return datasets


def receive(bench, source, name, identity=IDENTITY):
    slices = of(dicom_objects.fresh_study(name), identity)
    mark = of([dicom_objects.gsps_rectangle([slices[4]])], identity)
    uid = bench.receive(*slices, *mark)
    bench.queue(uid)
    analyze(uid, bench.site, source)
    return uid, slices


@pytest.fixture
def patient(bench, source, box):
    """Two analysed studies of one patient, and something of her in every corner."""
    uid, slices = receive(bench, source, "first")
    send(box, order(), patient=IDENTITY[1])
    other, _ = receive(bench, source, "second")
    send(box, order(day="20240101"), patient=IDENTITY[1], control_id="M2")
    assert parked(bench)
    changed = slices[3].copy()
    changed.StudyDescription = "another object under the same UID"
    keep(bench, changed)
    with bench.sessions.begin() as session:
        key = ledger.study(session, uid).patient_key
        session.add(
            ClinicalRow(
                study_uid=uid,
                laterality=Laterality.LEFT,
                variable="size_cm",
                value="1",
                source="x",
                recorded_at=now(),
                recorded_by="x",
            )
        )
        session.add(
            PatientRoleRow(patient_key=key, role="train", centre="1", assigned_at=now())
        )
        session.execute(sa.update(DeliveryRow).values(sent_at=now()))
    log(bench, uid, slices)
    return uid, other


def keep(bench, dataset):
    """Let the listener keep an object that is not what it holds under that UID."""
    with bench.sessions.begin() as session:
        ledger.record_conflict(session, conflict(bench, dataset), now())


def conflict(bench, dataset):
    syntax = dataset.file_meta.TransferSyntaxUID
    content = encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian)
    return bench.intake.keep(
        StoreRequest(
            sop_class_uid=dataset.SOPClassUID,
            sop_instance_uid=dataset.SOPInstanceUID,
            transfer_syntax_uid=syntax,
            calling_ae="PACS",
            dataset=BytesIO(content),
        )
    )


def log(bench, uid, slices):
    folder = bench.site.settings.data_dir / "logs"
    folder.mkdir(exist_ok=True)
    path = next((bench.site.settings.spool / "instances").glob("*/*/*.dcm"))
    lines = [{"study_uid": uid}, {"path": str(path)}, {"study_uid": "1.2.826.9.9.9"}]
    lines += [{"sop_instance_uid": one.SOPInstanceUID} for one in slices]
    (folder / "analysis.log").write_text("".join(json.dumps(x) + "\n" for x in lines))


def contents(bench) -> dict[str, bytes]:
    """Return every file of the data folder, and the database as it would be dumped."""
    root = bench.site.settings.data_dir
    found = {
        str(one.relative_to(root)): one.read_bytes()
        for one in root.rglob("*")
        if one.is_file() and not one.name.startswith("sentinode.db")
    }
    url = sa.make_url(bench.site.settings.database)
    if url.get_backend_name() == "sqlite":
        with sqlite3.connect(url.database) as connection:
            lines = [x for x in connection.iterdump() if 'INTO "audit"' not in x]
        found["dump"] = "\n".join(lines).encode()
        found["raw"] = b"".join(
            one.read_bytes() for one in sorted(root.glob("sentinode.db*"))
        )
    else:
        found["dump"] = pg_dump(url)
    return found


def pg_dump(url) -> bytes:
    command = [
        *("pg_dump", "--exclude-table-data=audit", "--host", url.query["host"]),
        *("--port", url.query["port"], "--username", url.username, url.database),
    ]
    program = shutil.which("pg_dump")
    assert program
    environment = {**os.environ, "PGCONNECT_TIMEOUT": "5"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    lines = done.stdout.splitlines()  # newer ones begin and end with a random word
    return b"\n".join(line for line in lines if b"restrict" not in line)


def names(bench, *uids) -> set[str]:
    with bench.sessions() as session:
        return {
            name
            for column in (InstanceRow.sop_instance_uid, InstanceRow.series_uid)
            for name in session.scalars(
                sa.select(column).where(InstanceRow.study_uid.in_(uids))
            )
        }


def holding(found: dict[str, bytes], *markers: str) -> set[str]:
    return {
        name
        for name, content in found.items()
        for marker in markers
        if marker.encode() in content or marker in name
    }


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_nothing_names_an_erased_patient_but_the_audit_trail(
    bench, run, patient, source
):
    receive(bench, source, "stays", ("Other^Olga", "STAYS", "19500101"))
    with bench.sessions() as session:
        kept = census(session)[1]
    objects = names(bench, *patient)
    assert {"dump", "logs/analysis.log"} <= holding(contents(bench), *patient)
    assert holding(contents(bench), *IDENTITY)

    done = run("--patient-id", "-", "--yes", "--json", stdin=f"{IDENTITY[1]}\n")

    assert {one["study_uid"] for one in done["studies"]} == set(patient)
    assert done["erased"]
    assert done["compacted"]
    assert done["parked"] == 1
    assert list(done["archives"]) == ["PACS@127.0.0.1:9"]
    assert any("backups" in one for one in done["remains"])
    left = contents(bench)
    assert holding(left, *IDENTITY, *objects) == set()
    assert holding(left, *patient, done["patient_key"]) <= {"raw"}  # SQLite's audit
    assert "1.2.826.9.9.9" in left["logs/analysis.log"].decode()
    with bench.sessions() as session:
        tables, stays = census(session)
        said = set(session.scalars(sa.select(AuditRow.what)))
    assert stays == kept == 1
    assert tables["study"] == tables["case"] == 1
    assert tables["parked_slnd"] == tables["hl7_message"] == 0
    assert {"patient erased", "study erased"} <= said


def census(session):
    """Count the rows of every table, and the studies of other patients."""
    tables = {
        table.name: session.scalar(sa.select(sa.func.count()).select_from(table))
        for table in Base.metadata.sorted_tables
    }
    keys = session.scalars(sa.select(StudyRow.patient_key)).all()
    return tables, sum(keys.count(key) == 1 for key in set(keys))


def test_a_dry_run_says_what_would_go_and_removes_nothing(bench, run, patient):
    before = contents(bench)
    done = run("--study", patient[0], "--dry-run", "--json")
    assert not done["erased"]
    assert len(done["studies"]) == 2
    after = contents(bench)
    assert after.pop("dump") == before.pop("dump")
    assert {k: v for k, v in after.items() if k != "raw"} == {
        k: v for k, v in before.items() if k != "raw"
    }
    assert IDENTITY[1] not in run("--patient-id", IDENTITY[1], "--dry-run")


def test_new_images_of_an_erased_patient_are_received_as_ever(
    bench, run, patient, source
):
    run("--study", patient[0], "--yes")
    uid, _ = receive(bench, source, "comes again")
    assert bench.study(uid).state == "analyzed"
    analyze(patient[0], bench.site, source)  # a message that was on its way
    with bench.sessions() as session:
        assert len(ledger.of_patients(session, [bench.study(uid).patient_key])) == 1


@pytest.mark.parametrize("doing", ["analysed", "sent", "received"])
def test_what_is_in_flight_is_refused_and_nothing_goes(bench, run, patient, doing):
    uid, later = patient[1], now() + timedelta(minutes=1)
    with bench.sessions.begin() as session:
        if doing == "analysed":
            ledger.requeue(session, uid, now(), "x")
            ledger.claim(session, uid, "worker", timedelta(minutes=1), now())
        elif doing == "sent":
            session.execute(
                sa.update(DeliveryRow)
                .where(DeliveryRow.study_uid == uid)
                .values(lease_until=later)
            )
        else:
            session.add(
                AssociationRow(
                    association_id="a",
                    listener="x",
                    calling_ae="PACS",
                    peer_address="127.0.0.1",
                    opened_at=now(),
                )
            )
            session.flush()
            session.add(AssociationStudyRow(association_id="a", study_uid=uid))
    before = contents(bench)["dump"]
    said = run("--study", uid, "--yes", "--wait", "0.6", code=4)
    assert f"is being {doing}" in said
    assert contents(bench)["dump"] == before


def test_a_study_that_holds_another_patient_too_goes_only_when_it_is_said(
    bench, run, patient, slices
):
    stranger = of(slices, ("Other^Olga", "STAYS", "19500101"))[0]
    stranger.StudyInstanceUID = patient[0]
    bench.receive(stranger)
    assert "another patient too" in run("--study", patient[1], "--yes", code=4)
    done = run("--study", patient[1], "--dry-run", "--json")
    assert [one["mixed"] for one in done["studies"]].count(True) == 1
    run("--study", patient[1], "--yes", "--mixed")


def test_an_object_in_quarantine_under_the_study_of_another_goes_too(
    bench, run, patient, source
):
    uid, slices = receive(bench, source, "stays", ("Other^Olga", "STAYS", "19500101"))
    intruder = of([slices[2].copy()])[0]
    keep(bench, intruder)
    done = run("--patient-id", IDENTITY[1], "--yes", "--json")
    assert done["quarantined"] == 1
    assert holding(contents(bench), *IDENTITY) == set()
    assert bench.study(uid).instances == len(slices) + 1


def test_two_issuers_of_one_id_must_be_told_apart(bench, run, source):
    for name in ("A", "B"):
        slices = of(dicom_objects.fresh_study(name))
        for one in slices:
            one.IssuerOfPatientID = name
        bench.receive(*slices)
    assert "--issuer" in run("--patient-id", IDENTITY[1], "--yes", code=4)
    done = run("--patient-id", IDENTITY[1], "--issuer", "A", "--yes", "--json")
    assert len(done["studies"]) == 1
    done = run("--patient-id", IDENTITY[1], "--dry-run", "--json")
    assert len(done["studies"]) == 1


def test_training_data_that_holds_a_case_is_named(bench, run, patient):
    with bench.sessions.begin() as session:
        results = [one.result_id for one in bench.results(patient[0])]
        session.add(
            SnapshotRow(
                snapshot_id="5" * 64,
                as_of=now(),
                created_at=now(),
                created_by="x",
                cases=1,
                sln_positive=0,
                sln_known=0,
                nsln_positive=0,
                nsln_known=0,
                results=results,
                exclusions=[],
            )
        )
    done = run("--study", patient[0], "--dry-run", "--json")
    assert done["snapshots"] == ["5" * 64]


def test_nobody_and_two_at_once_are_refused(run, patient):
    run("--patient-id", "NOBODY", "--yes", code=3)
    run("--study", "1.2.3", "--yes", code=3)
    run("--patient-key", "a" * 64, "--yes", code=3)
    run("--yes", code=2)
    run("--patient-id", "-", code=2, stdin="x\n")
    run("--patient-id", " ", "--yes", code=2)


def test_every_table_that_knows_patients_is_reached():
    known = {"study", "instance", "parked_patient", "patient_role"}
    tables = {
        table.name
        for table in Base.metadata.sorted_tables
        if "patient_key" in table.c or "issuer_key" in table.c
    }
    assert tables == known


def test_a_log_keeps_its_length_and_its_other_lines(tmp_path: Path):
    path = tmp_path / "a.log"
    path.write_text('{"study_uid": "1.2.3.4"}\n{"study_uid": "1.2.3.44"}\n')
    size = path.stat().st_size
    assert scrubbing.scrub(scrubbing.logs(tmp_path), {"1.2.3.4"}) == 1
    assert path.read_text() == '{"study_uid": "xxxxxxx"}\n{"study_uid": "1.2.3.44"}\n'
    assert path.stat().st_size == size
