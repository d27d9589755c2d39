"""The audit trail: append-only, chained, and honest about what was done to it."""

import base64
import json
import stat
import threading
from datetime import UTC, datetime
from io import BytesIO

import pytest
import sqlalchemy as sa
from lxml import etree
from pydicom import dcmread
from pydicom.sr._concepts_dict import concepts
from sqlalchemy.exc import DatabaseError

from dicom_node import atna, audit, chain, db
from dicom_node.atna import Origin
from dicom_node.audit import Action, Code, Event, Kind, Trail
from dicom_node.chain import Head
from dicom_node.refusals import INTERVAL, Refusals
from tests.audit_messages import SOURCE, check, details, parsed, place, things
from tests.dicom_node.conftest import STUDY, T0, associate, receive
from tests.peers import wait_until

REFUSE = {
    "sqlite": ("DROP TRIGGER audit_no_update", "DROP TRIGGER audit_no_delete"),
    "postgresql": ("ALTER TABLE audit DISABLE TRIGGER ALL",),
}


@pytest.fixture
def trail(tmp_path) -> Trail:
    return Trail(
        chain.derive_key(b"a secret of sixteen bytes"), tmp_path / "audit.head"
    )


def event(number: int = 1, **changes) -> Event:
    values = {
        "actor": "anna",
        "study": STUDY,
        "at": T0,
        "detail": f"number {number}",
    }
    return Event(Code.ACCESSED, Action.UPDATE, "studies hold", **(values | changes))


def append(sessions, trail, *events):
    with sessions.begin() as session:
        audit.record(session, trail, *events)


def verdict(sessions, trail):
    with sessions() as session:
        return audit.verify(session, trail, audit.known_head(trail))


def tamper(sessions, *statements: str) -> None:
    """Do what only the owner of the database can: take the guards away first."""
    with sessions.begin() as session:
        for one in (*REFUSE[session.get_bind().dialect.name], *statements):
            session.execute(sa.text(one))


def test_what_is_recorded_holds_and_names_the_patient_by_key_alone(sessions, trail):
    receive(sessions)
    append(sessions, trail, *(event(n) for n in range(1, 4)))
    append(sessions, trail, event(4, study=None))

    found = verdict(sessions, trail)

    assert found.holds
    assert found.entries == 4
    assert audit.known_head(trail) == found.head
    assert stat.S_IMODE(trail.head_file.stat().st_mode) == 0o600
    with sessions() as session:
        first, *_, last = audit.entries(session)
    assert first.event.patient == "a" * 64
    assert last.event.patient is None


@pytest.mark.parametrize(
    "statement", ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit"]
)
def test_the_database_refuses_to_change_or_remove(sessions, trail, statement):
    append(sessions, trail, event())
    with pytest.raises(DatabaseError, match="append-only"), sessions.begin() as session:
        session.execute(sa.text(statement))
    assert verdict(sessions, trail).holds


SWAP = "UPDATE audit SET sequence = {} WHERE sequence = {}"
COPY = (
    "INSERT INTO audit SELECT 9, at, code, kind, action, outcome, what, 'eve', host, "
    "study, object_id, patient, detail, source, hash, hash, peer, objects FROM audit "
    "WHERE sequence = 5"
)


@pytest.mark.parametrize(
    ("statements", "sequence", "word"),
    [
        (("UPDATE audit SET actor = 'eve' WHERE sequence = 3",), 3, "altered"),
        (("UPDATE audit SET detail = '' WHERE sequence = 1",), 1, "altered"),
        (("DELETE FROM audit WHERE sequence = 2",), 2, "deleted"),
        (("DELETE FROM audit WHERE sequence = 1",), 1, "deleted"),
        (tuple(SWAP.format(a, b) for a, b in ((99, 2), (2, 3), (3, 99))), 2, "altered"),
        ((COPY, SWAP.format(6, 9)), 6, "forged"),
        (("DELETE FROM audit WHERE sequence > 3",), 4, "truncated"),
        (("DELETE FROM audit",), 1, "truncated"),
    ],
)
def test_tampering_is_named_at_the_first_entry(
    sessions, trail, statements, sequence, word
):
    append(sessions, trail, *(event(n) for n in range(1, 6)))
    tamper(sessions, *statements)

    found = verdict(sessions, trail)

    assert not found.holds
    assert found.sequence == sequence
    assert word in found.fault


def test_who_has_the_table_and_not_the_key_cannot_write_the_chain_anew(
    sessions, trail, tmp_path
):
    append(sessions, trail, event(1), event(2))
    tamper(sessions, "DELETE FROM audit")
    forger = Trail(chain.derive_key(b"another secret, guessed"), tmp_path / "forged")
    append(sessions, forger, event(1, actor="eve"), event(2))

    found = verdict(sessions, trail)

    assert (found.holds, found.sequence) == (False, 1)


def test_a_chain_cut_off_and_grown_again_with_the_key_is_rewritten(sessions, trail):
    append(sessions, trail, event(1), event(2))
    tamper(sessions, "DELETE FROM audit WHERE sequence = 2")
    with sessions() as session:
        known = audit.known_head(trail)
    append(sessions, trail, event(2, detail="otherwise"))
    with sessions() as session:
        found = audit.verify(session, trail, known)
    assert found.sequence == 2
    assert "rewritten" in found.fault


def test_what_is_rolled_back_is_not_in_the_head(sessions, trail):
    append(sessions, trail, event(1))
    with sessions.begin() as session:
        audit.record(session, trail, event(2))
        session.rollback()
    assert audit.known_head(trail).count == 1
    assert verdict(sessions, trail).entries == 1


def test_writers_at_the_same_time_make_one_chain(sessions, trail):
    def write():
        for _ in range(5):
            append(sessions, trail, event())

    threads = [threading.Thread(target=write) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    found = verdict(sessions, trail)
    assert (found.holds, found.entries) == (True, 20)


def test_a_head_that_is_behind_is_no_fault(sessions, trail):
    """A process that was killed after its commit has not written the file."""
    append(sessions, trail, event(1), event(2), event(3))
    with sessions() as session:
        first = next(audit.entries(session))
        found = audit.verify(session, trail, Head(1, first.hash))
    assert (found.holds, found.entries) == (True, 3)


def test_entries_are_narrowed(sessions, trail):
    late = datetime(2026, 4, 1, tzinfo=UTC)
    append(sessions, trail, event(1), event(2, at=late, study="1.2.9"))
    with sessions() as session:
        assert len(list(audit.entries(session, since=late))) == 1
        assert len(list(audit.entries(session, until=late))) == 1
        assert len(list(audit.entries(session, study=STUDY))) == 1
        assert not list(audit.entries(session, actor="bob"))


ORIGIN = Origin("SENTINODE", "worker-1")


def test_a_line_is_rfc_5424_with_an_audit_message(sessions, trail):
    receive(sessions)
    append(
        sessions,
        trail,
        event(detail='a "<b>"\nnext', actor="AE\x01", host="10.0.0.7"),
    )
    with sessions() as session:
        (entry,) = audit.entries(session)
    line = atna.line(entry, ORIGIN)
    assert line.startswith(
        "<85>1 2026-03-04T10:00:00.000000Z worker-1 sentinode - DICOM+RFC3881 - \ufeff"
    )
    assert "\n" not in line
    root = parsed(line)
    assert root.find("EventIdentification").get("EventActionCode") == "U"
    who, process = root.findall("ActiveParticipant")
    assert (who.get("UserID"), who.get("UserIsRequestor")) == ("AE?", "true")
    assert who.get("NetworkAccessPointTypeCode") == "2"
    assert process.get("AlternativeUserID") == "AETITLES=SENTINODE"
    source = root.find("AuditSourceIdentification")
    assert source.get("AuditSourceID") == "SENTINODE@worker-1"
    assert [one.get("ParticipantObjectID") for one in things(root)] == [
        *(STUDY, "a" * 64, "sentinode:audit:1"),
    ]
    assert details(things(root)[-1])["PurposeOfUse"] == "HRESCH"


CT, SR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("actor", ["anna", "sentinode"])
def test_every_kind_of_event_is_as_the_standard_has_it(code, actor):
    peer = "PACS@pacs.example:104" if code in WITH_PEER else None
    kind = {Code.APPLICATION: Kind.START, Code.SECURITY_ALERT: Kind.NODE_AUTHENTICATION}
    one = Event(
        code,
        Action.UPDATE,
        "something",
        actor,
        study=STUDY,
        object_id="thing",
        kind=kind.get(code),
        outcome=4,
        patient="a" * 64,
        peer=peer,
        objects=f"{CT}=120,{SR}=1",
    )
    root = parsed(atna.line(audit.Entry(1, one, "0" * 64, "1" * 64), ORIGIN))
    counts = {
        each.get("UID"): each.get("NumberOfInstances") for each in root.iter("SOPClass")
    }
    assert counts == {CT: "120", SR: "1"}
    assert place(root) == (1, "1" * 64)


WITH_PEER = {Code.BEGIN_TRANSFERRING, Code.TRANSFERRED, Code.QUERY}


@pytest.mark.parametrize(
    ("peer", "user", "host", "kind"),
    [
        ("PACS@10.0.0.9:104", "PACS", "10.0.0.9", "2"),
        ("PACS@[fe80::1]:104", "PACS", "[fe80::1]", "1"),
        ("PACS@pacs", "PACS", "pacs", "1"),
        ("https://pacs/dicom-web", "https://pacs/dicom-web", None, "5"),
    ],
)
def test_the_other_side_is_named_with_its_access_point(peer, user, host, kind):
    sent = Event(Code.TRANSFERRED, Action.READ, "x", "us", study=STUDY, peer=peer)
    root = parsed(atna.line(audit.Entry(1, sent, "0" * 64, "1" * 64), ORIGIN))
    ours, theirs = root.findall("ActiveParticipant")
    assert theirs.get("UserID") == user
    assert theirs.get("NetworkAccessPointID") == (host or peer)
    assert theirs.get("NetworkAccessPointTypeCode") == kind
    assert ours.find("RoleIDCode").get("csd-code") == SOURCE


def test_a_query_is_told_as_the_standard_encodes_it():
    asked = Event(Code.QUERY, Action.EXECUTE, "q", "us", study="1.2.345", peer="A@b:1")
    root = parsed(atna.line(audit.Entry(1, asked, "0" * 64, "1" * 64), ORIGIN))
    query = base64.b64decode(next(root.iter("ParticipantObjectQuery")).text)
    identifier = dcmread(BytesIO(query), force=True)
    assert identifier.QueryRetrieveLevel == "STUDY"
    assert identifier.StudyInstanceUID == "1.2.345"
    assert len(identifier) == 2


def test_a_message_that_lacks_what_the_standard_demands_is_found():
    root = etree.fromstring("<AuditMessage/>")
    with pytest.raises(AssertionError):
        check(root)


def test_the_codes_have_the_meanings_of_the_dictionary():
    known = {
        value: meaning
        for one in concepts["DCM"].values()
        for value, (meaning, _) in one.items()
    }
    assert set(atna.NAMES) == {*Code, *Kind}
    assert {code: known[code] for code in atna.NAMES} == atna.NAMES
    others = (*atna.ROLES.values(), atna.STUDY_UID, atna.CLASS_UID, atna.NODE_ID)
    assert all(known[code] == name for code, _, name in (*others, atna.FILES))


def test_refusals_are_gathered(sessions, trail):
    refusals = Refusals(sessions, trail, "SENTINODE@host:11112")
    for n in range(200):
        refusals.note(f"EVE{n % 20}", "10.0.0.6", T0)
    refusals.note("EVE\0", "10.0.0.6", T0 + INTERVAL)
    refusals.flush(T0 + INTERVAL)
    with sessions() as session:
        found = [one.event for one in audit.entries(session)]
    assert [one.detail.partition(" ")[0] for one in found] == ["1", "200"]
    assert {one.outcome for one in found} == {4}
    assert "others" in found[1].detail


def test_the_listener_enters_who_was_refused(listener, settings, sessions):
    assert not associate(listener.port, "STRANGER").is_established
    trail = audit.trail_of(settings)

    def entered():
        with sessions() as session:
            return list(audit.entries(session))

    (found,) = wait_until(entered, "the entry", 10)
    assert found.event.actor == "STRANGER"
    assert found.event.kind == Kind.NODE_AUTHENTICATION
    assert verdict(sessions, trail).holds


def test_a_damaged_head_is_no_head(trail):
    trail.head_file.write_text("{")
    with pytest.raises(json.JSONDecodeError):
        audit.known_head(trail)


def test_the_key_is_not_the_secret():
    assert chain.derive_key(b"x" * 32) != b"x" * 32
    assert "key" not in repr(Trail(b"k", None))


def test_an_entry_holds_text_numbers_and_times_alone():
    with pytest.raises(TypeError, match="bytes"):
        chain.canonical({"x": b"1"})
    assert db.now().tzinfo is not None
