"""Is a call taken? Who calls, whom it asks for, how often, and how much it holds.

A rejection says to a peer that is not admitted no more than that it is not known.
"""

from dataclasses import dataclass
from typing import Final, cast

from pynetdicom.association import Association as Connection
from pynetdicom.pdu_primitives import A_ASSOCIATE

from dicom_node import contexts, counters
from dicom_node.admission import Admission
from dicom_node.limits import Places, Rate, Silent
from dicom_node.server import FIRST_BYTE_TIMEOUT_S, TOO_OFTEN
from dicom_node.settings import NodeSettings
from dicom_node.tls import Certificate

ACSE_TIMEOUT_S: Final = 30
MAX_CHECKS: Final = 8
"""Checks of our health at a time; they take no place from a sender."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a call is rejected; result, source and reason are those of PS3.8 9.3.4."""

    why: str
    result: int
    source: int
    reason: int
    outcome: str = counters.NOT_NEGOTIATED


NOT_ADMITTED: Final = Rejection(
    "caller not admitted", 0x01, 0x01, 0x03, counters.NOT_ADMITTED
)
WITHOUT_TLS: Final = Rejection(
    "caller not admitted without TLS", 0x01, 0x01, 0x03, counters.NOT_ADMITTED
)
WRONG_CALLED: Final = Rejection("another AE title was called", 0x01, 0x01, 0x07)
TOO_MANY: Final = Rejection("too many associations", 0x02, 0x03, 0x02)
OFTEN: Final = Rejection(TOO_OFTEN, 0x02, 0x03, 0x02)
FAULT: Final = Rejection("fault of ours", 0x02, 0x02, 0x01)


@dataclass(frozen=True, slots=True)
class Call:
    """An A-ASSOCIATE request and where it came from."""

    calling_ae: str
    called_ae: str
    address: str
    certificate: Certificate | None
    secured: bool

    @classmethod
    def of(cls, connection: Connection, *, secured: bool) -> "Call":
        """Return the request of an association that asks to be established."""
        asked = cast("A_ASSOCIATE", connection.requestor.primitive)
        wrapped = connection.dul.socket
        return cls(
            asked.calling_ae_title.strip(),
            asked.called_ae_title.strip(),
            str(connection.requestor.address),
            Certificate.of(None if wrapped is None else wrapped.socket),
            secured,
        )


class Reception:
    """What all ports of a listener have in common: who is there already."""

    def __init__(self, settings: NodeSettings) -> None:
        self.admission = Admission.of(settings)
        self.silent = Silent(ACSE_TIMEOUT_S + FIRST_BYTE_TIMEOUT_S)
        self.rate = Rate(settings.max_calls_per_minute)
        self._aet = settings.aet
        self._refuses_plain = settings.takes_tls and settings.tls_only
        self._places = Places(
            settings.max_associations, settings.max_associations_per_caller
        )
        self._checks = Places(MAX_CHECKS, MAX_CHECKS)

    def rejection(self, connection: Connection, call: Call) -> Rejection | None:
        """Return why a call is rejected; None gives it a place, until `leave`."""
        places = self._places
        unknown = self._unknown(call)
        if unknown and self.admission.may_verify(call.calling_ae, call.address):
            connection.acceptor.supported_contexts = contexts.verification()
            unknown, places = None, self._checks
        if unknown:
            return unknown
        if call.called_ae != self._aet:
            return WRONG_CALLED
        if not call.secured and not self.rate.take(call.address):
            return OFTEN  # with TLS it was counted before the handshake
        whose = (call.calling_ae, call.address)
        return None if places.take(connection, whose) else TOO_MANY

    def _unknown(self, call: Call) -> Rejection | None:
        if self._refuses_plain and not call.secured:
            return WITHOUT_TLS
        admitted = self.admission.admits(
            call.calling_ae, call.address, call.certificate
        )
        return None if admitted else NOT_ADMITTED

    def heard(self, connection: Connection) -> None:
        """Note that a connection has asked for something, or is closed."""
        caller = connection.requestor
        self.silent.leave((str(caller.address), int(caller.port or 0)))

    def leave(self, connection: Connection) -> None:
        """Free the place of an association that has ended."""
        self.heard(connection)
        self._places.give_back(connection)
        self._checks.give_back(connection)
