"""A database of the first release: brought up to date, worked with, taken back."""

import json
from datetime import timedelta

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from dicom_node import db, ledger, outbox, revisions, schema
from dicom_node.db import now
from dicom_node.findings import Slnd, StageStatus
from dicom_node.settings import load
from dicom_node.study import StudyState, StudyUid
from tests.worker.conftest import Bench
from tests.worker.test_purged import dissect
from worker import outcomes
from worker.cli import main
from worker.settings import WorkerSettings
from worker.tasks.analysis import Site, analyze

FIRST = "0001"
SENT = "1.2.9.9.1"
T0 = "2026-03-04 10:00:00+00:00"

ADDED = {
    "activation": {
        "stage": "SLN",
        "name": "sln",
        "version": "1",
        "weights_sha256": "a" * 64,
        "activated_at": T0,
        "activated_by": "admin",
    },
    "threshold": {
        "stage": "SLN",
        "threshold": 0.4,
        "reason": "of the site",
        "set_at": T0,
        "set_by": "admin",
    },
    "association": {
        "association_id": "a1",
        "listener": "SENTINODE@host:11112",
        "calling_ae": "PACS",
        "peer_address": "127.0.0.1",
        "opened_at": T0,
        "closed_at": T0,
    },
    "association_study": {"association_id": "a1"},
    "conflict": {
        "sop_instance_uid": "1.2.9.9.2",
        "path": "quarantine/00/00/x.dcm",
        "sha256": "b" * 64,
        "patient_differs": False,
        "received_at": T0,
        "resolved_at": T0,
    },
    "slnd": {
        "laterality": "R",
        "result": "negative",
        "source": "letter",
        "recorded_at": T0,
        "recorded_by": "admin",
    },
}
"""Rows of the tables that an analysis leaves empty."""


@pytest.fixture(params=["sqlite", "postgresql"])
def old_url(request, tmp_path) -> str:
    """A database with the schema of the first release, and nothing in it."""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    else:
        url = f"sqlite:///{tmp_path / 'old' / 'sentinode.db'}"
    schema.upgrade(url, FIRST)
    return url


def carry_over(source: sa.Engine, target: sa.Engine) -> None:
    """Fill the columns of the first release with what was recorded."""
    old, new = sa.MetaData(), sa.MetaData()
    old.reflect(target)
    new.reflect(source)
    with source.connect() as reading, target.begin() as writing:
        for table in old.sorted_tables:
            if table.name == "alembic_version":
                continue
            names = [one.name for one in table.c if one.name != "event_id"]  # counted
            columns = [new.tables[table.name].c[name] for name in names]
            rows = list(reading.execute(sa.select(*columns)).mappings())
            if rows:
                writing.execute(table.insert(), [_aware(dict(row)) for row in rows])


def _aware(row: dict) -> dict:
    """SQLite gives times without a zone; they are UTC."""
    return {
        name: value.replace(tzinfo=db.now().tzinfo)
        if hasattr(value, "tzinfo") and value.tzinfo is None
        else value
        for name, value in row.items()
    }


def add_rows(engine: sa.Engine, uid: StudyUid) -> None:
    with engine.begin() as connection:
        for name, values in ADDED.items():
            found = sa.inspect(connection).get_columns(name)
            of_study = (
                {"study_uid": uid} if "study_uid" in {c["name"] for c in found} else {}
            )
            row = {**of_study, **values}
            places = ", ".join(f":{column}" for column in row)
            statement = f"INSERT INTO {name} ({', '.join(row)}) VALUES ({places})"  # noqa: S608 - constants
            connection.execute(sa.text(statement), row)
        connection.execute(
            sa.text("UPDATE delivery SET state = 'sent', attempts = 1, sent_at = :at"),
            {"at": T0},
        )


@pytest.fixture
def old(bench: Bench, study: StudyUid, old_url: str) -> str:
    """The database of an installation of the first release, with rows everywhere."""
    target = db.connect(old_url)
    carry_over(bench.sessions.kw["bind"], target)
    add_rows(target, study)
    with target.connect() as connection:
        for name in set(sa.inspect(connection).get_table_names()) - {"alembic_version"}:
            count = sa.text(f'SELECT count(*) FROM "{name}"')  # noqa: S608 - our own tables
            assert connection.execute(count).scalar_one() > 0, name
    target.dispose()
    return old_url


@pytest.fixture
def upgraded(old: str, bench: Bench):
    """The installation after `sentinode db upgrade`, with the files that it had."""
    settings = load(
        WorkerSettings,
        data_dir=bench.site.settings.data_dir,
        database_url=old,
        models_dir=bench.site.settings.models,
        pacs=bench.site.settings.pacs,
    )
    done = call(settings, "db", "upgrade")
    assert done.exit_code == 0, done.output
    engine = db.connect(old)
    yield Bench(Site(db.writing(engine), bench.site.spool, settings, bench.site.device))
    engine.dispose()


def call(settings: WorkerSettings, *arguments: str):
    flags = ("--data-dir", str(settings.data_dir), "--database-url", settings.database)
    return CliRunner().invoke(main, [*arguments, *flags])


def shown(settings: WorkerSettings, *arguments: str):
    done = call(settings, *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_what_the_first_release_recorded_is_shown_after_the_upgrade(
    upgraded: Bench, bench: Bench, study: StudyUid
):
    before, after = bench.site.settings, upgraded.site.settings
    (was,), (now_is,) = (
        shown(settings, "results", "show", study) for settings in (before, after)
    )
    first, second = (shown(one, "studies", "show", study) for one in (before, after))

    for key in ("result_id", "pathway", "documents", "input", "created_at"):
        assert now_is[key] == was[key], key
    for one, other in zip(now_is["stages"], was["stages"], strict=True):
        for key in ("status", "probability", "threshold", "risk", "weights_sha256"):
            assert one[key] == other[key], key
    for key in ("state", "roi", "selection", "received_at", "patient_key"):
        assert second[key] == first[key], key
    assert [one["study_uid"] for one in shown(after, "studies", "list")] == [study]
    assert shown(after, "db", "current")["current"] is True


def test_what_was_sent_before_the_upgrade_is_not_sent_again(upgraded: Bench):
    listed = shown(upgraded.site.settings, "deliveries", "list")
    with upgraded.sessions.begin() as session:
        due = outbox.due(session, now(), timedelta(0), 10)
        (destination,) = {one["destination"] for one in listed}
        claimed = outbox.claim(session, destination, timedelta(minutes=1), now(), 9)

    assert {one["state"] for one in listed} == {"sent"}
    assert not due
    assert not claimed


def test_a_dissection_after_the_upgrade_opens_stage_two_of_an_old_result(
    upgraded: Bench, study: StudyUid, source
):
    with upgraded.sessions() as session:
        (before,) = outcomes.results(session, study)
    dissect(upgraded, study, Slnd.POSITIVE)
    (result_id,) = analyze(study, upgraded.site, source)
    with upgraded.sessions() as session:
        newest = outcomes.result(session, result_id)
        state = ledger.study(session, study).state
        pending = outbox.due(session, now(), timedelta(0), 10)

    assert state is StudyState.ANALYZED
    assert newest.supersedes == before.result_id
    assert newest.stages[1].status is StageStatus.DONE
    assert newest.stages[0].probability == before.stages[0].probability
    assert pending


def test_an_old_result_without_a_kept_crop_says_what_to_do_when_it_is_replayed(
    upgraded: Bench, study: StudyUid, capfd
):
    (result,) = shown(upgraded.site.settings, "results", "show", study)
    done = call(upgraded.site.settings, "results", "replay", result["result_id"])
    said = capfd.readouterr().err
    assert done.exit_code == 4
    assert "no crop was kept" in said
    assert "`sentinode studies reprocess` makes one" in said


def test_a_new_release_is_taken_back_and_what_the_old_one_knows_is_as_it_was(
    old: str, upgraded: Bench, study: StudyUid
):
    engine = upgraded.sessions.kw["bind"]
    was = rows(engine)
    done = call(upgraded.site.settings, "db", "downgrade", FIRST, "--yes")
    assert done.exit_code == 0, done.output
    taken_back = rows(engine)
    schema.upgrade(old)

    assert revisions.is_current(old)
    assert taken_back == was
    assert shown(upgraded.site.settings, "results", "show", study)


def test_what_a_downgrade_would_undo_is_said_and_nothing_is_undone(
    old: str, upgraded: Bench
):
    settings = upgraded.site.settings
    would = shown(settings, "db", "downgrade", FIRST, "--dry-run")["would_undo"]
    unknown = call(settings, "db", "downgrade", "9999", "--dry-run")

    assert [one["revision"] for one in would] == sorted(
        (one["revision"] for one in would), reverse=True
    )
    assert would[0]["revision"] == revisions.HEAD
    assert FIRST not in {one["revision"] for one in would}
    assert revisions.is_current(old)
    assert unknown.exit_code == 3


def rows(engine: sa.Engine) -> dict[str, list]:
    """Return what the first release knows of, whatever the schema is now."""
    keys = ("study_uid", "state", "instances", "revision")
    wanted = {
        "study": keys,
        "result": ("result_id", "case_id", "version", "pathway", "input_sha256"),
        "stage": ("result_id", "stage", "status", "probability", "weights_sha256"),
        "document": ("sop_instance_uid", "sha256", "path"),
        "delivery": ("delivery_id", "destination", "state", "attempts"),
        "slnd": ("study_uid", "laterality", "result", "source"),
        "instance": ("sop_instance_uid", "path", "sha256", "own", "accepted"),
    }
    found = {}
    with engine.connect() as connection:
        for table, columns in wanted.items():
            text = f'SELECT {", ".join(columns)} FROM "{table}" ORDER BY 1, 2'  # noqa: S608 - constants
            found[table] = [tuple(row) for row in connection.execute(sa.text(text))]
    assert all(found.values())
    return found
