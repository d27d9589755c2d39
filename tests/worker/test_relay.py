"""The audit trail reaches a real collector, whole and in order, whatever it does."""

import socket
import ssl
import threading
import time
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node import audit, db, schema, syslog
from dicom_node.audit import Action, Code, Event
from dicom_node.db import now
from dicom_node.errors import PeerUnavailableError, SettingsError
from dicom_node.settings import load
from dicom_node.syslog import Collector, Identity
from dicom_node.tables import RelayRow
from tests.audit_messages import parsed, place
from tests.collectors import Authority, Rsyslog
from tests.peers import wait_until
from worker import queues, relay
from worker.app import create_app
from worker.settings import WorkerSettings

STUDY = "1.2.3.4"


@pytest.fixture
def installation(tmp_path, migrated):
    """Settings and sessions of an installation with an empty trail."""

    def make(**given):
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        settings = load(WorkerSettings, data_dir=folder, **given)
        schema.upgrade(settings.database)
        engine = db.connect(settings.database)
        engines.append(engine)
        return settings, db.writing(engine)

    engines = []
    yield make
    for one in engines:
        one.dispose()


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def collector(tmp_path, request, authority):
    scheme = getattr(request, "param", "tls")
    running = Rsyslog(
        tmp_path / "rsyslog", scheme, authority if scheme == "tls" else None
    )
    yield running.start()
    running.stop()


def identity_of(authority, client=None):
    certificate, key = client or authority.client
    return {
        "audit_syslog_ca_file": authority.ca,
        "audit_syslog_certificate": certificate,
        "audit_syslog_key": key,
    }


def fill(settings, sessions, count: int, first: int = 1) -> None:
    """Append entries of many kinds."""
    kinds = [
        (Code.ACCESSED, {}),
        (Code.TRANSFERRED, {"peer": "PACS@10.0.0.9:104", "objects": "1.2.3=4"}),
        (Code.BEGIN_TRANSFERRING, {"peer": "https://pacs/dicom-web"}),
        (Code.QUERY, {"peer": "PACS@pacs:104"}),
        (Code.EXPORT, {"outcome": 4}),
    ]
    with sessions.begin() as session:
        events = [
            Event(
                code,
                Action.UPDATE,
                "x",
                "anna",
                study=STUDY,
                detail=f'{n} "<\n',
                **more,
            )
            for n in range(first, first + count)
            for code, more in [kinds[n % len(kinds)]]
        ]
        audit.record(session, audit.trail_of(settings), *events)


def hashes(sessions) -> dict[int, str]:
    with sessions() as session:
        return {one.sequence: one.hash for one in audit.entries(session)}


def collected(collector: Rsyslog) -> dict[int, str]:
    """Return number and hash of each message, in order of arrival; all are valid."""
    return dict(place(parsed(line)) for line in dict.fromkeys(collector.lines()))


def await_all(collector, sessions):
    expected = hashes(sessions)
    wait_until(lambda: len(set(collector.lines())) >= len(expected), "all entries", 20)
    found = collected(collector)
    assert found == expected
    assert list(found) == sorted(expected)  # in order, where each came first


def waiting(sessions, settings) -> int:
    with sessions() as session:
        return relay.standing(session, settings.audit_syslog).waiting


@pytest.mark.parametrize("collector", ["tls", "tcp", "udp"], indirect=True)
def test_every_entry_arrives_in_order_and_valid(collector, installation, authority):
    settings, sessions = installation(
        audit_syslog=collector.url, **identity_of(authority)
    )
    fill(settings, sessions, 20)
    assert relay.relay(sessions, settings) == 20
    assert relay.relay(sessions, settings) == 0
    await_all(collector, sessions)
    fill(settings, sessions, 3, first=21)
    assert relay.relay(sessions, settings) == 3
    await_all(collector, sessions)
    assert len(collector.lines()) == 23  # nothing twice when all is well


def test_a_collector_that_is_killed_again_and_again_lacks_nothing(
    collector, installation, authority, monkeypatch
):
    settings, sessions = installation(
        audit_syslog=collector.url, **identity_of(authority)
    )
    monkeypatch.setattr(relay, "BATCH", 40)
    fill(settings, sessions, 200)
    stopping = threading.Event()

    def send():
        while not stopping.is_set():
            relay.relay(sessions, settings)
            time.sleep(0.02)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for seen in (20, 130):
            wait_until(lambda n=seen: len(set(collector.lines())) >= n, "entries", 20)
            collector.kill()
            time.sleep(0.2)
            collector.start()
        fill(settings, sessions, 20, first=201)
        wait_until(lambda: not waiting(sessions, settings), "an empty backlog", 30)
    finally:
        stopping.set()
        sender.join()
    await_all(collector, sessions)


def test_a_backlog_waits_for_a_collector_that_is_away(
    collector, installation, authority
):
    collector.kill()
    settings, sessions = installation(
        audit_syslog=collector.url, **identity_of(authority)
    )
    fill(settings, sessions, 5)
    assert relay.relay(sessions, settings) == 0
    with sessions() as session:
        standing = relay.standing(session, settings.audit_syslog)
    assert (standing.taken, standing.waiting) == (0, 5)
    assert standing.failing_since is not None
    assert "refused" in standing.error
    collector.start()
    assert relay.relay(sessions, settings) == 5
    with sessions() as session:
        assert relay.standing(session, settings.audit_syslog).failing_since is None
    await_all(collector, sessions)


def test_who_is_not_known_by_its_certificate_sends_nothing(
    collector, installation, authority
):
    others = identity_of(authority, authority.issue("stranger.example"))
    settings, sessions = installation(audit_syslog=collector.url, **others)
    fill(settings, sessions, 2)
    assert relay.relay(sessions, settings) == 0
    assert waiting(sessions, settings) == 2
    assert collector.lines() == []


def test_a_collector_that_we_do_not_trust_gets_nothing(
    collector, installation, authority, tmp_path
):
    other = Authority(tmp_path / "other")
    settings, sessions = installation(
        audit_syslog=collector.url,
        **identity_of(authority) | {"audit_syslog_ca_file": other.ca},
    )
    fill(settings, sessions, 2)
    assert relay.relay(sessions, settings) == 0
    with sessions() as session:
        error = relay.standing(session, settings.audit_syslog).error
    assert "certificate" in error
    assert collector.lines() == []


class Dying:
    """A TCP collector that reads a little, and then resets the connection."""

    def __init__(self, most: int):
        self.most, self.taken = most, bytearray()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.close()
        self._thread.join()

    def _serve(self):
        connection, _ = self._server.accept()
        connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0" + bytes(4)
        )
        self.taken += connection.recv(self.most)
        time.sleep(0.3)  # the rest has come, and nobody reads it
        connection.close()


def test_what_a_dying_collector_had_not_read_counts_as_not_sent():
    with Dying(10) as peer, pytest.raises(PeerUnavailableError, match="reset"):
        syslog.send(
            Collector("tcp", "127.0.0.1", peer.port), ["x" * 500], Identity(), 5
        )
    assert len(peer.taken) == 10


def test_only_the_last_minutes_are_sent_again(installation, tmp_path):
    """After an hour of quiet, a collector that went away gets what is new alone."""
    running = Rsyslog(tmp_path / "rsyslog", "tcp").start()
    settings, sessions = installation(audit_syslog=running.url)
    try:
        at = now()
        fill(settings, sessions, 10)
        relay.relay(sessions, settings, lambda: at)
        running.kill()
        fill(settings, sessions, 2, first=11)
        hour = timedelta(hours=1)
        relay.relay(sessions, settings, lambda: at + hour)
        assert waiting(sessions, settings) == 2
        running.start()
        relay.relay(sessions, settings, lambda: at + hour)
        running.kill()
        fill(settings, sessions, 1, first=13)
        relay.relay(sessions, settings, lambda: at + hour + timedelta(seconds=9))
        assert waiting(sessions, settings) == 3  # 11 and 12 may have been in its memory
    finally:
        running.stop()


def test_one_process_sends_at_a_time_and_a_killed_one_lets_go(installation):
    with Slow() as peer:
        settings, sessions = installation(audit_syslog=f"tcp://127.0.0.1:{peer.port}")
        fill(settings, sessions, 1)
        first = threading.Thread(target=relay.relay, args=(sessions, settings))
        first.start()
        assert peer.connected.wait(5)
        assert relay.relay(sessions, settings) == 0
        peer.let_go.set()
        first.join()
        assert waiting(sessions, settings) == 0
    with sessions.begin() as session:  # as a process leaves it that is killed
        session.execute(
            sa.update(RelayRow).values(holder="dead", until=now() + relay.LEASE)
        )
    late = now() + relay.LEASE * 1.1
    assert relay.relay(sessions, settings, lambda: late) == 0
    with sessions() as session:
        assert session.scalars(sa.select(RelayRow.holder)).one() is None


class Slow:
    """A TCP collector that reads when it is told to."""

    def __init__(self):
        self.connected, self.let_go = threading.Event(), threading.Event()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._thread.join()
        self._server.close()

    def _serve(self):
        connection, _ = self._server.accept()
        self.connected.set()
        self.let_go.wait(10)
        with connection:
            while connection.recv(65536):
                pass


def test_entries_are_sent_again_on_demand(installation):
    settings, sessions = installation(audit_syslog="tcp://127.0.0.1:9")
    fill(settings, sessions, 5)
    with sessions.begin() as session:
        relay.set_back(session, settings.audit_syslog, 4)
        assert relay.standing(session, settings.audit_syslog).waiting == 2


def test_a_trail_that_is_shorter_than_what_was_sent_is_told(installation):
    settings, sessions = installation(audit_syslog="tcp://127.0.0.1:9")
    fill(settings, sessions, 2)
    with sessions.begin() as session:
        relay.set_back(session, settings.audit_syslog, 3)
        for verb in ("update", "delete"):
            session.execute(sa.text(f"DROP TRIGGER audit_no_{verb}"))
        session.execute(sa.text("DELETE FROM audit WHERE sequence = 2"))
        standing = relay.standing(session, settings.audit_syslog)
    assert "removed here" in standing.error


def test_the_clock_sends_only_where_there_is_a_collector(installation):
    settings, _ = installation()
    assert "relay" not in create_app(settings).conf.beat_schedule
    settings, _ = installation(audit_syslog="udp://syslog.example")
    app = create_app(settings)
    assert app.conf.beat_schedule["relay"]["task"] == queues.RELAY
    assert str(settings.audit_syslog) == "udp://syslog.example:514"


@pytest.mark.parametrize(
    "text",
    ["syslog.example:514", "http://x:1", "tls://", "tls://x:1/path", "tls://u@x:1"],
)
def test_what_is_no_collector_is_refused(text, tmp_path):
    with pytest.raises(SettingsError, match="AUDIT_SYSLOG"):
        load(WorkerSettings, data_dir=tmp_path, audit_syslog=text)


def test_files_of_an_identity_that_cannot_be_used_are_named(tmp_path):
    identity = Identity(tmp_path / "none.pem")
    with pytest.raises(SettingsError, match="AUDIT_SYSLOG_CA_FILE"):
        identity.context()
    assert Identity().context().minimum_version is ssl.TLSVersion.TLSv1_2
