from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.script import ScriptDirectory
from alembic.util import CommandError

import worker.tables  # noqa: F401 - its tables are part of the schema
from dicom_node import commitment, db, ledger, outbox, revisions, schema
from dicom_node.findings import Document
from dicom_node.study import Peer, SopInstanceUid
from tests.dicom_node.conftest import QUIET, SR, STUDY, T0, arrival


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'sentinode.db'}"
    return request.getfixturevalue("postgres_url")


def tables(url: str) -> set[str]:
    engine = db.connect(url)
    try:
        return set(sa.inspect(engine).get_table_names()) - {"alembic_version"}
    finally:
        engine.dispose()


def test_a_database_goes_up_and_down_again(empty):
    assert revisions.current(empty) is None
    assert not revisions.is_current(empty)
    schema.upgrade(empty)
    assert revisions.is_current(empty)
    assert tables(empty) == set(db.Base.metadata.tables)
    schema.downgrade(empty, "base")
    assert revisions.current(empty) is None
    assert tables(empty) == set()
    schema.upgrade(empty)
    assert revisions.is_current(empty)


def test_the_newest_migration_is_the_one_that_this_version_works_with():
    scripts = ScriptDirectory(str(schema.MIGRATIONS))
    assert scripts.get_current_head() == revisions.HEAD


def test_the_migrations_make_what_the_models_say(empty):
    schema.upgrade(empty)
    try:
        command.check(schema.configuration(empty))
    except CommandError as error:
        pytest.fail(f"models and migrations differ: {error}")


def test_an_upgrade_of_a_current_database_changes_nothing(empty):
    schema.upgrade(empty)
    schema.upgrade(empty)
    assert revisions.is_current(empty)


def test_a_database_with_deliveries_goes_down_and_up(empty):
    schema.upgrade(empty)
    engine = db.connect(empty)
    with db.writing(engine).begin() as session:
        ledger.record(session, [arrival()], QUIET, T0)
        report = Document("SR", SR, SopInstanceUid("1.2.9.1"), "0" * 64, b"")
        variant = Document("SR", SR, SopInstanceUid("1.2.9.2"), "1" * 64, b"")
        frozen = [(report, Path("documents/1.dcm"))]
        outbox.enqueue(session, STUDY, "r1", frozen, [Peer("P", "h", 1)], T0)
        (one,) = outbox.claim(session, "P@h:1", timedelta(minutes=1), T0, 9)
        outbox.add_variant(session, one, variant, Path("documents/2.dcm"), T0)
        outbox.sent(session, one, 0, T0, variant.sop_instance_uid)
        commitment.want(session, one.delivery_id, T0)
        commitment.claim(session, "P@h:1", timedelta(hours=1), T0, 9)
    engine.dispose()
    schema.downgrade(empty, "0001")
    schema.upgrade(empty)
    with db.writing(engine).begin() as session:
        (after,) = outbox.deliveries(session)
    engine.dispose()
    assert (after.state, after.sop_instance_uid) == ("sent", "1.2.9.1")
    assert after.commitment is None


def test_asking_for_the_revision_does_not_create_a_database(tmp_path):
    assert revisions.current(f"sqlite:///{tmp_path / 'sentinode.db'}") is None
    assert not (tmp_path / "sentinode.db").exists()
