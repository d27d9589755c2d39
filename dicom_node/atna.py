"""An audit entry as an AuditMessage (DICOM PS3.15 A.5) in a syslog line (RFC 5424).

Who takes part, and as what, is said by the tables of PS3.15 A.5.3, one for each kind of
event. The schema of A.5.1 wants a name or a query of every object: where the standard
has the patient's name, there is the word "pseudonym".
"""

import base64
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_node import classes
from dicom_node.audit import Action, Code, Entry, Event, Kind

Coded = tuple[str, str, str]

FACILITY: Final = 10
"""security/authorization messages (RFC 5424 6.2.1)."""

NOTICE: Final = 5
WARNING: Final = 4
MESSAGE_ID: Final = "DICOM+RFC3881"
"""MSGID of an audit message (PS3.15 A.6)."""

NAMES: Final = {
    Code.APPLICATION: "Application Activity",
    Code.AUDIT_LOG_USED: "Audit Log Used",
    Code.BEGIN_TRANSFERRING: "Begin Transferring DICOM Instances",
    Code.ACCESSED: "DICOM Instances Accessed",
    Code.TRANSFERRED: "DICOM Instances Transferred",
    Code.DELETED: "DICOM Study Deleted",
    Code.EXPORT: "Export",
    Code.IMPORT: "Import",
    Code.PATIENT_RECORD: "Patient Record",
    Code.QUERY: "Query",
    Code.SECURITY_ALERT: "Security Alert",
    Kind.START: "Application Start",
    Kind.STOP: "Application Stop",
    Kind.NODE_AUTHENTICATION: "Node Authentication",
    Kind.SOFTWARE_CONFIGURATION: "Software Configuration",
}
"""Code meanings of DCM; a test compares them with the dictionary."""

ACTIONS: Final = {
    Code.APPLICATION: Action.EXECUTE,
    Code.AUDIT_LOG_USED: Action.READ,
    Code.BEGIN_TRANSFERRING: Action.EXECUTE,
    Code.DELETED: Action.DELETE,
    Code.EXPORT: Action.READ,
    Code.IMPORT: Action.CREATE,
    Code.QUERY: Action.EXECUTE,
    Code.SECURITY_ALERT: Action.EXECUTE,
}
"""The action that PS3.15 A.5.3 fixes for a kind of event."""

ROLES: Final = {
    "application": ("110150", "DCM", "Application"),
    "launcher": ("110151", "DCM", "Application Launcher"),
    "destination": ("110152", "DCM", "Destination Role ID"),
    "source": ("110153", "DCM", "Source Role ID"),
    "destination media": ("110154", "DCM", "Destination Media"),
    "source media": ("110155", "DCM", "Source Media"),
}
ACTOR_ROLES: Final = {
    Code.APPLICATION: "launcher",
    Code.BEGIN_TRANSFERRING: "source",
    Code.TRANSFERRED: "source",
    Code.QUERY: "source",
    Code.EXPORT: "source",
    Code.IMPORT: "destination",
}
MEDIA: Final = {Code.EXPORT: "destination media", Code.IMPORT: "source media"}

APPLICATION: Final = "sentinode"
APPLICATION_SERVER: Final = "4"
PATIENT_NUMBER: Final = ("2", "RFC-3881", "Patient Number")
URI: Final = ("12", "RFC-3881", "URI")
STUDY_UID: Final = ("110180", "DCM", "Study Instance UID")
CLASS_UID: Final = ("110181", "DCM", "SOP Class UID")
NODE_ID: Final = ("110182", "DCM", "Node ID")
FILES: Final = ("110037", "DCM", "URI")
"""Media type of files in a folder (CID 405)."""

PATIENT: Final = ("1", "1")
REPORT: Final = ("2", "3")
SECURITY_RESOURCE: Final = ("2", "13")

CREATED, COPIED, AMENDED, USED, DERIVED, EXPORTED, ERASED = (
    *("1", "2", "3", "6", "8", "10", "15"),
)
"""Stages in the life of an object (PS3.15 A.5.1.2.3)."""

LIFE: Final = {
    (Code.TRANSFERRED, Action.CREATE): COPIED,
    (Code.TRANSFERRED, Action.READ): EXPORTED,
    (Code.BEGIN_TRANSFERRING, Action.EXECUTE): EXPORTED,
    (Code.EXPORT, Action.READ): EXPORTED,
    (Code.IMPORT, Action.CREATE): COPIED,
    (Code.DELETED, Action.DELETE): ERASED,
    (Code.ACCESSED, Action.CREATE): DERIVED,
    (Code.ACCESSED, Action.UPDATE): AMENDED,
}
PURPOSE: Final = "HRESCH"
"""Healthcare research, of HL7's PurposeOfUse: all that this program is for."""

STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
IMPLICIT_VR: Final = "1.2.840.10008.1.2"

NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold; an AE title on the network may."""

MACHINE_NAME, IP_ADDRESS, WEB = "1", "2", "5"
ADDRESS: Final = re.compile(r"[0-9.]+|[0-9a-fA-F:.%]*:[0-9a-fA-F:.%]*")
PORT: Final = re.compile(r":\d+$")


@dataclass(frozen=True, slots=True)
class Origin:
    """Which installation reports: its AE title, on this host."""

    ae_title: str
    host: str = field(default_factory=socket.gethostname)

    @property
    def source_id(self) -> str:
        """Name the installation among others of its kind."""
        return f"{self.ae_title}@{self.host}"


def line(entry: Entry, origin: Origin) -> str:
    """Return an entry as one line of syslog; it has no line break inside."""
    severity = WARNING if entry.event.outcome else NOTICE
    at = _timestamp(entry.event)
    host = re.sub(r"[^!-~]", "_", origin.host)[:255] or "-"
    head = f"<{FACILITY * 8 + severity}>1 {at} {host} {APPLICATION} - {MESSAGE_ID} -"
    return f"{head} \ufeff{message(entry, origin)}"


def message(entry: Entry, origin: Origin) -> str:
    """Return the AuditMessage of an entry.

    The patient is named by a keyed hash. The entry's place in the chain is a Security
    Resource of its own, so that a collector holds a witness of the chain.
    """
    event = entry.event
    root = Element("AuditMessage")
    _identification(root, event)
    for one in _participants(event, origin):
        one.into(root)
    source = SubElement(
        root, "AuditSourceIdentification", AuditSourceID=_clean(origin.source_id)
    )
    SubElement(source, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    _objects(root, event)
    place = Thing(
        f"sentinode:audit:{entry.sequence}", SECURITY_RESOURCE, URI, "audit entry"
    )
    details = {"what": event.what, "detail": event.detail, "hash": entry.hash}
    details["PurposeOfUse"] = PURPOSE
    if event.code == Code.SECURITY_ALERT:
        details["Alert Description"] = event.detail or event.what
    place.into(root, details=details)
    return tostring(root, encoding="unicode")


@dataclass(frozen=True, slots=True)
class Participant:
    """Who took part: a user, an AE title or a process, as what, and from where."""

    user: str
    role: str | None
    is_requestor: bool
    host: str = ""
    titles: str | None = None

    def into(self, root: Element) -> None:
        """Add this participant to a message."""
        attributes = {"UserID": _clean(self.user)}
        if self.titles is not None:
            attributes["AlternativeUserID"] = f"AETITLES={_clean(self.titles)}"
        attributes["UserIsRequestor"] = "true" if self.is_requestor else "false"
        if self.host:
            attributes["NetworkAccessPointID"] = _clean(self.host)
            attributes["NetworkAccessPointTypeCode"] = _access_point(self.host)
        made = SubElement(root, "ActiveParticipant", attributes)
        if self.role is not None:
            _code(made, "RoleIDCode", ROLES[self.role])
            if self.role in MEDIA.values():
                media = SubElement(made, "MediaIdentifier")
                _code(media, "MediaType", FILES)


def _participants(event: Event, origin: Origin) -> Iterator[Participant]:
    """Yield who took part, as PS3.15 A.5.3 has it for this kind of event."""
    code = Code(event.code)
    role = ACTOR_ROLES.get(code)
    if code is Code.APPLICATION and event.actor == APPLICATION:
        role = "application"
    yield Participant(event.actor, role, is_requestor=True, host=event.host)
    if event.peer is not None:
        yield _peer(event.peer)
    elif event.actor != APPLICATION:  # both the person and the process are known
        role = "application" if code is Code.APPLICATION else role
        yield Participant(
            APPLICATION,
            role,
            is_requestor=False,
            host=origin.host,
            titles=origin.ae_title,
        )
    if code in MEDIA:
        yield Participant("files", MEDIA[code], is_requestor=False)


def _peer(peer: str) -> Participant:
    """Return the other side: AET@HOST:PORT, or the URL of a web service."""
    if "://" in peer:
        return Participant(peer, "destination", is_requestor=False, host=peer)
    title, _, host = peer.partition("@")
    return Participant(
        title, "destination", is_requestor=False, host=PORT.sub("", host), titles=title
    )


@dataclass(frozen=True, slots=True)
class Thing:
    """An object that took part: its identifier, type and role, kind of identifier."""

    identifier: str
    role: tuple[str, str]
    kind: Coded
    name: str
    life: str | None = None

    def into(
        self,
        root: Element,
        *,
        query: bytes | None = None,
        details: Mapping[str, str] | None = None,
        objects: Mapping[str, int] | None = None,
    ) -> None:
        """Add this object to a message, in the order of the schema."""
        attributes = {
            "ParticipantObjectID": _clean(self.identifier),
            "ParticipantObjectTypeCode": self.role[0],
            "ParticipantObjectTypeCodeRole": self.role[1],
        }
        if self.life is not None:
            attributes["ParticipantObjectDataLifeCycle"] = self.life
        made = SubElement(root, "ParticipantObjectIdentification", attributes)
        _code(made, "ParticipantObjectIDTypeCode", self.kind)
        if query is None:
            SubElement(made, "ParticipantObjectName").text = self.name
        else:
            SubElement(made, "ParticipantObjectQuery").text = _base64(query)
        for name, value in (details or {}).items():
            said = {"type": name, "value": _base64(value.encode())}
            SubElement(made, "ParticipantObjectDetail", said)
        if objects:
            described = SubElement(made, "ParticipantObjectDescription")
            for uid, count in objects.items():
                SubElement(described, "SOPClass", UID=uid, NumberOfInstances=str(count))


def _objects(root: Element, event: Event) -> None:
    """Add what the event is about: log, query, study, patient, anything else."""
    code = Code(event.code)
    life = LIFE.get((code, _action(event)), USED)
    if code is Code.AUDIT_LOG_USED:
        log = Thing(APPLICATION, SECURITY_RESOURCE, URI, "Security Audit Log")
        log.into(root)
    if code is Code.QUERY:
        syntax = {"TransferSyntax": IMPLICIT_VR}
        asked = Thing(STUDY_ROOT_FIND, REPORT, CLASS_UID, "query")
        asked.into(root, query=_query(event.study), details=syntax)
    if event.study is not None:
        study = Thing(event.study, REPORT, STUDY_UID, "study", life)
        study.into(root, objects=classes.read(event.objects))
    if event.patient is not None:
        Thing(event.patient, PATIENT, PATIENT_NUMBER, "pseudonym").into(root)
    if event.object_id is not None:
        is_node = event.kind == Kind.NODE_AUTHENTICATION
        role = SECURITY_RESOURCE if code is Code.SECURITY_ALERT else REPORT
        kind = NODE_ID if is_node else URI
        Thing(event.object_id, role, kind, event.what).into(root)


def _query(study: str | None) -> bytes:
    """Return the identifier of a C-FIND for a study, without any value of a patient."""
    uid = (study or "").encode("ascii")
    uid += b"\0" * (len(uid) % 2)
    level = struct.pack("<HHI", 0x0008, 0x0052, 6) + b"STUDY "
    return level + struct.pack("<HHI", 0x0020, 0x000D, len(uid)) + uid


def _action(event: Event) -> Action:
    return ACTIONS.get(Code(event.code), Action(event.action))


def _identification(root: Element, event: Event) -> None:
    identification = SubElement(
        root,
        "EventIdentification",
        EventActionCode=_action(event),
        EventDateTime=_timestamp(event),
        EventOutcomeIndicator=str(int(event.outcome)),
    )
    _code(identification, "EventID", (event.code, "DCM", NAMES[Code(event.code)]))
    if event.kind is not None:
        kind = (event.kind, "DCM", NAMES[Kind(event.kind)])
        _code(identification, "EventTypeCode", kind)
    if event.outcome:
        said = SubElement(identification, "EventOutcomeDescription")
        said.text = _clean(event.detail or event.what)


def _code(parent: Element, name: str, code: Coded) -> None:
    value, system, meaning = code
    attributes = {
        "csd-code": value,
        "codeSystemName": system,
        "originalText": meaning,
    }
    SubElement(parent, name, attributes)


def _access_point(host: str) -> str:
    if "://" in host:
        return WEB
    return IP_ADDRESS if ADDRESS.fullmatch(host) else MACHINE_NAME


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _timestamp(event: Event) -> str:
    at = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    return at.replace("+00:00", "Z")


def _clean(text: str) -> str:
    return NO_XML.sub("?", text)
