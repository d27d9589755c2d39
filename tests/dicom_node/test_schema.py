import pytest
import sqlalchemy as sa
from alembic import command
from alembic.util import CommandError

import worker.tables  # noqa: F401 - its tables are part of the schema
from dicom_node import db, schema


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
    assert schema.current(empty) is None
    assert not schema.is_current(empty)
    schema.upgrade(empty)
    assert schema.is_current(empty)
    assert tables(empty) == set(db.Base.metadata.tables)
    schema.downgrade(empty, "base")
    assert schema.current(empty) is None
    assert tables(empty) == set()
    schema.upgrade(empty)
    assert schema.is_current(empty)


def test_the_migrations_make_what_the_models_say(empty):
    schema.upgrade(empty)
    try:
        command.check(schema.configuration(empty))
    except CommandError as error:
        pytest.fail(f"models and migrations differ: {error}")


def test_an_upgrade_of_a_current_database_changes_nothing(empty):
    schema.upgrade(empty)
    schema.upgrade(empty)
    assert schema.is_current(empty)


def test_asking_for_the_revision_does_not_create_a_database(tmp_path):
    assert schema.current(f"sqlite:///{tmp_path / 'sentinode.db'}") is None
    assert not (tmp_path / "sentinode.db").exists()
