"""An audit entry as an AuditMessage (DICOM PS3.15 A.5) in a syslog line (RFC 5424)."""

import base64
import re
from datetime import UTC
from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from dicom_node.audit import Code, Entry, Event, Kind

FACILITY: Final = 10
"""security/authorization messages (RFC 5424 6.2.1)."""

NOTICE: Final = 5
WARNING: Final = 4
MESSAGE_ID: Final = "DICOM+RFC3881"
"""MSGID of an audit message (PS3.15 A.6)."""

NAMES: Final = {
    Code.APPLICATION: "Application Activity",
    Code.AUDIT_LOG_USED: "Audit Log Used",
    Code.ACCESSED: "DICOM Instances Accessed",
    Code.TRANSFERRED: "DICOM Instances Transferred",
    Code.DELETED: "DICOM Study Deleted",
    Code.EXPORT: "Export",
    Code.IMPORT: "Import",
    Code.QUERY: "Query",
    Code.SECURITY_ALERT: "Security Alert",
    Kind.START: "Application Start",
    Kind.STOP: "Application Stop",
    Kind.NODE_AUTHENTICATION: "Node Authentication",
    Kind.SOFTWARE_CONFIGURATION: "Software Configuration",
}
"""Code meanings of DCM; a test compares them with the dictionary."""

APPLICATION: Final = "sentinode"
PATIENT_NUMBER: Final = ("2", "RFC-3881", "Patient Number")
URI: Final = ("12", "RFC-3881", "URI")
STUDY_UID: Final = ("110180", "DCM", "Study Instance UID")
NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold; an AE title on the network may."""

MACHINE_NAME, IP_ADDRESS = "1", "2"
ADDRESS: Final = re.compile(r"[0-9.]+|[0-9a-fA-F:.%]*:[0-9a-fA-F:.%]*")


def line(entry: Entry) -> str:
    """Return an entry as one line of syslog; it has no line break inside."""
    severity = WARNING if entry.event.outcome else NOTICE
    at = _timestamp(entry.event)
    host = re.sub(r"[^!-~]", "_", entry.event.host)[:255] or "-"
    head = f"<{FACILITY * 8 + severity}>1 {at} {host} {APPLICATION} - {MESSAGE_ID} -"
    return f"{head} \ufeff{message(entry)}"


def message(entry: Entry) -> str:
    """Return the AuditMessage of an entry.

    The patient is named by a keyed hash. The entry's place in the chain is a Security
    Resource of its own, so that a collector holds a witness of the chain.
    """
    event = entry.event
    root = Element("AuditMessage")
    _identification(root, event)
    SubElement(
        root,
        "ActiveParticipant",
        UserID=_clean(event.actor),
        UserIsRequestor="true",
        NetworkAccessPointID=_clean(event.host),
        NetworkAccessPointTypeCode=(
            IP_ADDRESS if ADDRESS.fullmatch(event.host) else MACHINE_NAME
        ),
    )
    SubElement(root, "AuditSourceIdentification", AuditSourceID=APPLICATION)
    if event.study is not None:
        _object(root, event.study, ("2", "3"), STUDY_UID, {})
    if event.patient is not None:
        _object(root, event.patient, ("1", "1"), PATIENT_NUMBER, {})
    if event.object_id is not None:
        _object(root, event.object_id, ("2", "3"), URI, {})
    place = f"sentinode:audit:{entry.sequence}"
    details = {"what": event.what, "detail": event.detail, "hash": entry.hash}
    _object(root, place, ("2", "13"), URI, details)
    return tostring(root, encoding="unicode")


def _identification(root: Element, event: Event) -> None:
    identification = SubElement(
        root,
        "EventIdentification",
        EventActionCode=event.action,
        EventDateTime=_timestamp(event),
        EventOutcomeIndicator=str(int(event.outcome)),
    )
    _code(identification, "EventID", (event.code, "DCM", NAMES[Code(event.code)]))
    if event.kind is not None:
        kind = (event.kind, "DCM", NAMES[Kind(event.kind)])
        _code(identification, "EventTypeCode", kind)


def _object(
    root: Element,
    identifier: str,
    role: tuple[str, str],
    kind: tuple[str, str, str],
    details: dict[str, str],
) -> None:
    made = SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(identifier),
        ParticipantObjectTypeCode=role[0],
        ParticipantObjectTypeCodeRole=role[1],
    )
    _code(made, "ParticipantObjectIDTypeCode", kind)
    for name, value in details.items():
        encoded = base64.b64encode(value.encode()).decode("ascii")
        SubElement(made, "ParticipantObjectDetail", type=name, value=encoded)


def _code(parent: Element, name: str, code: tuple[str, str, str]) -> None:
    value, system, meaning = code
    attributes = {
        "csd-code": value,
        "codeSystemName": system,
        "originalText": meaning,
    }
    SubElement(parent, name, attributes)


def _timestamp(event: Event) -> str:
    at = event.at.astimezone(UTC).isoformat(timespec="microseconds")
    return at.replace("+00:00", "Z")


def _clean(text: str) -> str:
    return NO_XML.sub("?", text)
