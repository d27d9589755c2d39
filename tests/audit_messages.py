"""What PS3.15 A.5 demands of audit messages: the schema, and the tables of A.5.3."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

SCHEMA = etree.RelaxNG(file=str(Path(__file__).parent / "audit_message.rng"))
LINE = re.compile(
    r"<(?P<pri>\d{1,3})>1 (?P<at>\S+Z) (?P<host>[!-~]{1,255}) (?P<app>[!-~]{1,48}) "
    r"(?P<process>[!-~]{1,128}) (?P<id>[!-~]{1,32}) - \ufeff(?P<xml><AuditMessage.*)",
    re.DOTALL,
)
PERSON, SYSTEM = "1", "2"
SOURCE, DESTINATION = "110153", "110152"


@dataclass(frozen=True)
class Demands:
    """What a kind of event must say: its action, roles of participants, objects."""

    actions: str
    roles: Sequence[str] = ()
    objects: Sequence[str] = field(default=())


DEMANDS = {
    "110100": Demands("E", roles=("110150",)),
    "110101": Demands("R", objects=("12",)),
    "110102": Demands("E", (SOURCE, DESTINATION), ("110180",)),
    "110103": Demands("CRUD", objects=("110180",)),
    "110104": Demands("CRUE", (SOURCE, DESTINATION), ("110180",)),
    "110105": Demands("D", objects=("110180",)),
    "110106": Demands("R", roles=(SOURCE, "110154")),
    "110110": Demands("CUD", objects=("2",)),
    "110107": Demands("C", roles=(DESTINATION, "110155")),
    "110112": Demands("E", (SOURCE, DESTINATION), ("110181",)),
    "110113": Demands("E"),
}
"""Tables A.5.3.1-1 to A.5.3.11-1, as far as they bind what we send."""


def parsed(line: str) -> etree._Element:
    """Check one syslog line and its message; return the message."""
    head = LINE.fullmatch(line)
    assert head, line[:200]
    assert head["pri"] in {"84", "85"}  # facility 10, severity 4 or 5 (PS3.15 A.6)
    assert head["id"] == "DICOM+RFC3881"
    root = etree.fromstring(head["xml"].encode())
    check(root)
    return root


def check(root: etree._Element) -> None:
    """Check a message against the schema and the table of its kind of event."""
    assert SCHEMA.validate(root), SCHEMA.error_log
    event = root.find("EventIdentification")
    demands = DEMANDS[event.find("EventID").get("csd-code")]
    assert event.get("EventActionCode") in demands.actions
    roles = {
        one.get("csd-code") for one in root.iterfind("ActiveParticipant/RoleIDCode")
    }
    assert set(demands.roles) <= roles
    kinds = [kind_of(one) for one in things(root)]
    assert set(demands.objects) <= set(kinds)
    for one in things(root):
        check_object(one)
    for one in root.iterfind("ActiveParticipant"):
        both = one.get("NetworkAccessPointID"), one.get("NetworkAccessPointTypeCode")
        assert all(both) or not any(both)


def check_object(one: etree._Element) -> None:
    """Check type and role of an object against what its kind of identifier asks."""
    kind, role = kind_of(one), one.get("ParticipantObjectTypeCodeRole")
    system = one.find("ParticipantObjectIDTypeCode").get("codeSystemName")
    type_code = one.get("ParticipantObjectTypeCode")
    if kind == "2":
        assert (system, type_code, role) == ("RFC-3881", PERSON, "1")
        assert one.findtext("ParticipantObjectName") == "pseudonym"
        assert re.fullmatch("[0-9a-f]{64}", one.get("ParticipantObjectID"))
    if kind == "110180":
        assert (system, type_code, role) == ("DCM", SYSTEM, "3")
    if kind == "110181":
        assert one.find("ParticipantObjectQuery") is not None
        assert "TransferSyntax" in details(one)


def things(root: etree._Element) -> list[etree._Element]:
    return root.findall("ParticipantObjectIdentification")


def kind_of(one: etree._Element) -> str:
    return one.find("ParticipantObjectIDTypeCode").get("csd-code")


def details(one: etree._Element) -> dict[str, str]:
    return {
        each.get("type"): base64.b64decode(each.get("value")).decode()
        for each in one.iterfind("ParticipantObjectDetail")
    }


def place(root: etree._Element) -> tuple[int, str]:
    """Return number and hash of the entry that a message was made of."""
    (one,) = (
        each
        for each in things(root)
        if each.get("ParticipantObjectID").startswith("sentinode:audit:")
    )
    return int(one.get("ParticipantObjectID").rsplit(":", 1)[1]), details(one)["hash"]
