"""The storage SCU: send files as they are, and say of each how it went.

Encoded bytes go out untouched while the peer accepts their transfer syntax. Only an
uncompressed file whose peer takes the other uncompressed syntax alone is re-encoded.
Where the caller can provide it, a report goes out as another SR class to a peer that
does not take its own: that is decided by the presentation contexts, never by a status.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.presentation import build_context

from dicom_node import native_send
from dicom_node.association import associate, end, status_of
from dicom_node.codestream import UNCOMPRESSED
from dicom_node.errors import (
    PeerRejectedError,
    PeerUnavailableError,
    PermanentError,
    TransientError,
    UnreadableObjectError,
)
from dicom_node.native_send import Line
from dicom_node.part10 import FileMeta, read_meta
from dicom_node.report.fallback import stand_ins
from dicom_node.statuses import SendOutcome, judge
from dicom_node.study import Peer, SopInstanceUid
from dicom_node.tls import Calling
from dicom_node.verification import echo
from dicom_node.wire import StoreCommand

__all__ = [
    "AS_IT_IS",
    "Handling",
    "SendOutcome",
    "Sendable",
    "echo",
    "read_sendable",
    "send",
]

MAX_CONTEXTS: Final = 128
TIMEOUT_S: Final = 60.0

# Send the encoded data set of a file as it is, in fragments read from disk.
_config.STORE_SEND_CHUNKED_DATASET = True


@dataclass(frozen=True, slots=True)
class Handling:
    """What the caller decides while files go out.

    `skip` is asked right before a file's turn, when all before it are known; a file
    that is skipped has no outcome. `stand_in` returns the file of a report (first
    argument) as another SOP class (second); without it each file goes out as it is.
    `native` sends what goes out as it is by `native_send`, where that is possible.
    """

    skip: Callable[[Path], bool] = lambda _: False
    stand_in: Callable[[Path, str], Path] | None = None
    native: bool = True


AS_IT_IS: Final = Handling()


@dataclass(frozen=True, slots=True)
class Sendable:
    """A file and what its file meta information says of it."""

    path: Path
    meta: FileMeta

    @property
    def syntaxes(self) -> tuple[str, ...]:
        """Transfer syntaxes that it can go out in, its own first."""
        own = self.meta.transfer_syntax_uid
        if own not in UNCOMPRESSED:
            return (own,)
        return (own, *(syntax for syntax in UNCOMPRESSED if syntax != own))

    def contexts(self, handling: Handling) -> tuple[tuple[str, str], ...]:
        """Return the (SOP class, transfer syntax) pairs to propose, the best first."""
        own = self.meta.sop_class_uid
        others = () if handling.stand_in is None else stand_ins(own)
        return tuple(
            (sop_class, syntax)
            for sop_class in (own, *others)
            for syntax in self.syntaxes
        )


def send(
    peer: Peer,
    calling: Calling,
    files: Iterable[Path],
    timeout: float = TIMEOUT_S,
    handling: Handling = AS_IT_IS,
) -> Iterator[SendOutcome]:
    """Send files over one association, in their order.

    More than 128 presentation contexts take another association each. A file that
    is refused does not stop those after it; when the association ends, every file
    that is left gets a transient error.

    Args:
        peer: Where to.
        calling: Our AE title, or who we are by TLS.
        files: DICOM Part 10 files, sent under the SOP UIDs of their file meta.
        timeout: Seconds to wait for each answer.
        handling: What the caller decides on the way.

    Yields:
        One outcome for each file, as it is known; nothing is raised for a peer.
    """
    sendable: list[Sendable] = []
    for path in files:
        try:
            sendable.append(read_sendable(path))
        except UnreadableObjectError as error:
            yield SendOutcome(path, None, None, error)
    while sendable:
        count = _batch_size(sendable, handling)
        yield from _Exchange(peer, calling, timeout, handling).run(sendable[:count])
        sendable = sendable[count:]


def read_sendable(path: Path) -> Sendable:
    """Read what is needed to propose a file to a peer.

    Raises:
        UnreadableObjectError: It is not a readable DICOM Part 10 file.
    """
    try:
        with path.open("rb") as file:
            return Sendable(path, read_meta(file))
    except OSError as error:
        raise UnreadableObjectError(f"cannot be read: {error.strerror}") from error


def _batch_size(sendable: Sequence[Sendable], handling: Handling) -> int:
    """Return how many files one association's presentation contexts suffice for."""
    contexts: set[tuple[str, str]] = set()
    for count, each in enumerate(sendable):
        contexts.update(each.contexts(handling))
        if len(contexts) > MAX_CONTEXTS:
            return count
    return len(sendable)


@dataclass(frozen=True, slots=True)
class _Exchange:
    """One association's worth of files for one peer."""

    peer: Peer
    calling: Calling
    timeout: float
    handling: Handling

    def run(self, batch: Sequence[Sendable]) -> Iterator[SendOutcome]:
        pairs = dict.fromkeys(
            pair for each in batch for pair in each.contexts(self.handling)
        )
        contexts = [build_context(sop_class, syntax) for sop_class, syntax in pairs]
        try:
            association = associate(self.peer, self.calling, contexts, self.timeout)
        except (PeerUnavailableError, PeerRejectedError) as error:
            for each in batch:
                uid = SopInstanceUid(each.meta.sop_instance_uid)
                yield SendOutcome(each.path, uid, None, error)
            return
        native = self.handling.native
        line = native_send.take_over(association, self.timeout) if native else None
        try:
            for number, each in enumerate(batch):
                if not self.handling.skip(each.path):
                    yield self._send_one(association, line, each, number)
        finally:
            if line is not None:
                line.give_back()
            end(association)

    def _send_one(
        self, association: Association, line: Line | None, file: Sendable, number: int
    ) -> SendOutcome:
        uid = SopInstanceUid(file.meta.sop_instance_uid)
        status = None
        error: TransientError | PermanentError | None
        try:
            content, syntax, context_id = self._accepted(association, file)
            uid = SopInstanceUid(content.meta.sop_instance_uid)
            command = StoreCommand(number % 0xFFFF + 1, content.meta.sop_class_uid, uid)
            as_it_is = syntax == content.meta.transfer_syntax_uid
            if line is not None and as_it_is and _has_uids(command):
                status = line.store(content.path, context_id, command)
            else:
                if line is not None:
                    line.give_back()
                status = self._transmit(association, content, syntax, number)
            error = judge(self.peer, status)
        except (TransientError, PermanentError) as raised:
            error = raised
        return SendOutcome(file.path, uid, status, error)

    def _accepted(
        self, association: Association, file: Sendable
    ) -> tuple[Sendable, str, int]:
        """Return the file to send, in which syntax and context, as the peer accepted.

        Raises:
            PeerUnavailableError: The association is gone.
            PeerRejectedError: The peer accepted none of the file's contexts.
            UnreadableObjectError: The report cannot be written as another class.
        """
        if not association.is_established:
            raise PeerUnavailableError(f"{self.peer} ended the association")
        accepted = {
            (str(context.abstract_syntax), str(context.transfer_syntax[0])): number
            for number, context in association._accepted_cx.items()  # noqa: SLF001 - `accepted_contexts` sorts them each time
        }
        for sop_class, syntax in file.contexts(self.handling):
            if (sop_class, syntax) not in accepted:
                continue
            number = accepted[sop_class, syntax]
            if sop_class == file.meta.sop_class_uid or self.handling.stand_in is None:
                return file, syntax, number
            other = self.handling.stand_in(file.path, sop_class)
            return read_sendable(other), syntax, number
        text = f"{self.peer} takes no {file.meta.sop_class_uid} in this transfer syntax"
        raise PeerRejectedError(text)

    def _transmit(
        self, association: Association, file: Sendable, syntax: str, number: int
    ) -> int | None:
        """Send one file and return the status, None when no answer came.

        Raises:
            PeerUnavailableError: The association is gone.
            UnreadableObjectError: The file cannot be read or encoded.
        """
        try:
            own = syntax == file.meta.transfer_syntax_uid
            content = file.path if own else _read(file)
            answer = association.send_c_store(content, msg_id=number % 0xFFFF + 1)
        except (AttributeError, ValueError, NotImplementedError, FileNotFoundError):
            text = f"cannot be encoded for {self.peer}"
            raise UnreadableObjectError(text) from None  # the cause may quote values
        except (OSError, RuntimeError) as error:
            raise PeerUnavailableError(f"{self.peer} went away") from error
        status = status_of(answer)
        if status is None:
            # It may look established for a moment; the next would wait in vain.
            association.abort()
        return status


def _has_uids(command: StoreCommand) -> bool:
    """Say whether what names an object can stand in a command set at all."""
    return command.sop_class_uid.isascii() and command.sop_instance_uid.isascii()


def _read(file: Sendable) -> Dataset:
    """Decode a file that must be re-encoded; warnings may quote its values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(file.path)
