"""Several listeners on one port: each takes its share, and none ends another's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from dicom_node.tables import AssociationRow, StudyRow
from tests.dicom_node.conftest import (
    associate,
    dataset,
    make_database,
    store,
    store_all,
)
from tests.dicom_node.test_listener import listen, look, open_associations, wait_until
from tests.peers import free_port

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.usefixtures("left_sockets"),
]


@pytest.fixture
def database(request) -> str:
    return make_database(request, "sqlite")


@pytest.fixture
def spawn(settings, database):
    """What starts a listener of a name as a process, and waits until it is there."""
    port = free_port()
    running: list[subprocess.Popen] = []

    def start(name: str) -> tuple[subprocess.Popen, int]:
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node"],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "SENTINODE_DATA_DIR": str(settings.data_dir),
                "SENTINODE_DATABASE_URL": database,
                "SENTINODE_HOST": "127.0.0.1",
                "SENTINODE_PORT": str(port),
                "SENTINODE_ALLOW": "SCANNER",
                "SENTINODE_LISTENER_NAME": name,
                "SENTINODE_MIN_FREE_BYTES": "1",
                "SENTINODE_MAX_ASSOCIATIONS": "64",
                "SENTINODE_MAX_ASSOCIATIONS_PER_CALLER": "64",
            },
        )
        running.append(process)
        assert process.stderr is not None
        for line in process.stderr:
            if "listening" in line:
                return process, port
        raise AssertionError(f"{name} did not start")

    yield start
    for process in running:
        process.kill()
        process.wait(10)
        process.stderr.close()


def holders(sessions) -> set[str]:
    """The listeners that hold an association now."""
    is_open = AssociationRow.closed_at.is_(None)
    with sessions.begin() as session:
        found = session.scalars(sa.select(AssociationRow.listener).where(is_open))
        return {name.rpartition("/")[2] for name in found}


def carried(sessions) -> set[str]:
    """The listeners that have held one."""
    with sessions.begin() as session:
        found = session.scalars(sa.select(AssociationRow.listener))
        return {name.rpartition("/")[2] for name in found}


def hold(port: int, wanted: Callable[[], bool]) -> list:
    """Open associations that have stored something, until that is so."""
    held = []
    while not wanted():
        association = associate(port)
        number = len(held)
        assert store(association, dataset(1, study=f"1.2.3.{number}")) == [0x0000]
        held.append(association)
        assert len(held) < 60, "one of them gets nothing"
    return held


def test_both_take_calls_and_the_death_of_one_ends_nothing_of_the_other(
    spawn, sessions
):
    first, port = spawn("one")
    spawn("two")
    held = hold(port, lambda: holders(sessions) == {"one", "two"})
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    before = open_associations(sessions)
    spawn("one")  # the heir of the one that died, and of nobody else
    assert holders(sessions) == {"two"}
    assert 0 < open_associations(sessions) < before
    for number, association in enumerate(held):
        if association.is_established:
            kept = store(association, dataset(2, study=f"1.2.3.{number}"))
            assert kept == [0x0000]
            association.release()
    for number in range(30):  # by then the heir has got one, too
        assert store_all(port, dataset(3, study=f"1.2.3.{number}")) == [0x0000]
    wait_until(lambda: open_associations(sessions) == 0)
    assert carried(sessions) == {"one", "two"}
    with sessions.begin() as session:
        studies = session.scalars(sa.select(StudyRow.study_uid)).all()
    assert len(studies) == max(len(held), 30)


def test_a_listener_without_a_name_shares_its_port_with_nobody(settings, sessions):
    started = listen(settings, sessions)
    with pytest.raises(OSError, match="in use"):
        listen(settings, sessions, port=started.port)
    with pytest.raises(OSError, match="in use"):
        listen(settings, sessions, port=started.port, listener_name="two")
    started.stop()


def test_an_heir_of_all_with_a_name_is_the_heir_of_that_name_alone(settings, sessions):
    started = listen(settings, sessions, listener_name="one")
    association = associate(started.port)
    assert store(association, dataset(1)) == [0x0000]
    settings = settings.model_copy(update={"port": started.port})
    second = listen(settings, sessions, listener_name="two", heir_of_all=True)
    assert open_associations(sessions) == 1
    association.release()
    wait_until(lambda: open_associations(sessions) == 0)
    assert look(sessions).instances == 1
    second.stop()
    started.stop()


@pytest.mark.parametrize("name", ["", "one"])
def test_a_second_listener_of_one_name_ends_nothing_of_the_first(
    settings, sessions, name
):
    settings = settings.model_copy(
        update={"port": free_port(), "listener_name": name, "heir_of_all": not name}
    )
    started = listen(settings, sessions)
    association = associate(started.port)
    assert store(association, dataset(1)) == [0x0000]
    with pytest.raises(OSError, match="in use"):
        listen(settings, sessions)
    assert open_associations(sessions) == 1
    association.release()
    started.stop()
    listen(settings, sessions).stop()  # the name is free again
