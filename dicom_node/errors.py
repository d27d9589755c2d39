"""Errors, split by the one question a caller asks: is it worth another try?

* NodeError
    + TransientError             retry later with the same input
        - PeerUnavailableError   no association, abort, or an "out of resources" status
        - SpoolFullError         the spool volume is out of space or failing
        - LedgerUnavailableError the database does not answer
    + PermanentError             the same input fails the same way every time
        - PeerRejectedError      the peer refused an object; carries the status
        - UnreadableObjectError  bytes that are not the DICOM object they claim to be
        - InvalidDocumentError   an object of ours that must not be sent
        - StudyHeldError         a person or another object is needed; carries a Reason
        - StudyIgnoredError      not a study for us; carries a Reason
        - SettingsError          the configuration cannot be used
        - NotFoundError          no such study or delivery
            . StudyNotFoundError, DeliveryNotFoundError
        - StateError             its state does not allow what was asked
            . StudyStateError, DeliveryStateError
        - ModelIntegrityError    weights that are not those of their manifest
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dicom_node.study import Reason


class NodeError(Exception):
    """Root of everything that Sentinode raises on purpose."""


class TransientError(NodeError):
    """Another try with the same input may succeed."""


class PeerUnavailableError(TransientError):
    """The peer did not answer, aborted, or was out of resources."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class SpoolFullError(TransientError):
    """The spool volume cannot take another instance now."""


class LedgerUnavailableError(TransientError):
    """The database does not answer now."""


class PermanentError(NodeError):
    """The same input fails the same way every time."""


class PeerRejectedError(PermanentError):
    """The peer refused an object; `status` is its DIMSE status, if it sent one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class UnreadableObjectError(PermanentError):
    """Bytes that cannot be read as the DICOM object that they claim to be."""


class InvalidDocumentError(PermanentError):
    """An object that Sentinode wrote, or could not write, must not leave.

    The message names every fault, without a value of the patient's.
    """


class SettingsError(PermanentError):
    """The configuration cannot be used; the message lists every fault."""


class ModelIntegrityError(PermanentError):
    """A file of weights is not the one that its manifest names; nothing may run."""


class StudyHeldError(PermanentError):
    """The study waits for a person or for another object.

    `detail` is one sentence for a person, without a patient's name, ID or date.
    """

    def __init__(self, reason: "Reason", detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class StudyIgnoredError(PermanentError):
    """The study is not one that Sentinode analyses; `detail` says why."""

    def __init__(self, reason: "Reason", detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class NotFoundError(PermanentError):
    """What was asked for is not in the database."""


class StudyNotFoundError(NotFoundError):
    """The ledger holds no study with this UID."""


class DeliveryNotFoundError(NotFoundError):
    """The outbox holds no delivery with this ID."""


class StateError(PermanentError):
    """The state of the thing does not allow what was asked; the message says why."""


class StudyStateError(StateError):
    """The study's state does not allow this."""


class DeliveryStateError(StateError):
    """The delivery's state does not allow this."""
