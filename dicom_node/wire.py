"""C-STORE on the wire: the PDUs and command sets of `native_store` and `native_send`.

Sources: PS3.8 9.3.5 and annex E (P-DATA-TF, fragments), PS3.7 9.3.1 and 6.3.1 (C-STORE,
command sets are Implicit VR Little Endian), PS3.7 E.1 (command elements).
"""

import struct
from dataclasses import dataclass
from typing import Final

from dicom_node.study import is_valid_uid

P_DATA_TF: Final = 0x04
PDU_HEADER: Final = struct.Struct(">BxL")
FRAGMENT_HEADER: Final = struct.Struct(">LBB")
"""Length (it counts the two bytes after it), presentation context, control header."""

CONTEXT_AND_CONTROL: Final = 2
LENGTH: Final = 4
IS_COMMAND: Final = 0b01
IS_LAST: Final = 0b10

C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
NO_DATA_SET: Final = 0x0101
A_DATA_SET: Final = 0x0001
LOW: Final = 0x0002

ELEMENT: Final = struct.Struct("<HHL")
US: Final = struct.Struct("<H")

AFFECTED_SOP_CLASS: Final = 0x0002
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MESSAGE_ID_RESPONDED_TO: Final = 0x0120
PRIORITY: Final = 0x0700
DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
AFFECTED_SOP_INSTANCE: Final = 0x1000
MOVE_ORIGINATOR: Final = 0x1030
MOVE_MESSAGE_ID: Final = 0x1031

KNOWN: Final = frozenset(
    {
        0x0000,
        AFFECTED_SOP_CLASS,
        COMMAND_FIELD,
        MESSAGE_ID,
        PRIORITY,
        DATA_SET_TYPE,
        AFFECTED_SOP_INSTANCE,
        MOVE_ORIGINATOR,
        MOVE_MESSAGE_ID,
    }
)
"""The elements of a C-STORE request (PS3.7 table 9.3-1)."""


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """What a C-STORE request says of the data set that follows it."""

    message_id: int
    sop_class_uid: str
    sop_instance_uid: str


def read_store(command: bytes) -> StoreCommand | None:
    """Read a command set; None unless it is a plain and valid C-STORE request."""
    values = _elements(command)
    if values is None or not KNOWN.issuperset(values):
        return None
    number = _number(values, MESSAGE_ID)
    sop_class = _uid(values, AFFECTED_SOP_CLASS)
    sop_instance = _uid(values, AFFECTED_SOP_INSTANCE)
    is_store = _number(values, COMMAND_FIELD) == C_STORE_RQ
    has_data = _number(values, DATA_SET_TYPE) not in {None, NO_DATA_SET}
    if number is None or not (is_store and has_data and sop_class and sop_instance):
        return None
    return StoreCommand(number, sop_class, sop_instance)


def store_answer(context_id: int, command: StoreCommand, status: int) -> bytes:
    """Return the PDU of a C-STORE response."""
    return _command(
        context_id,
        _element(AFFECTED_SOP_CLASS, _padded(command.sop_class_uid)),
        _element(COMMAND_FIELD, US.pack(C_STORE_RSP)),
        _element(MESSAGE_ID_RESPONDED_TO, US.pack(command.message_id)),
        _element(DATA_SET_TYPE, US.pack(NO_DATA_SET)),
        _element(STATUS, US.pack(status)),
        _element(AFFECTED_SOP_INSTANCE, _padded(command.sop_instance_uid)),
    )


def store_request(context_id: int, command: StoreCommand) -> bytes:
    """Return the PDU of a C-STORE request; its data set follows in PDUs of its own."""
    return _command(
        context_id,
        _element(AFFECTED_SOP_CLASS, _padded(command.sop_class_uid)),
        _element(COMMAND_FIELD, US.pack(C_STORE_RQ)),
        _element(MESSAGE_ID, US.pack(command.message_id)),
        _element(PRIORITY, US.pack(LOW)),
        _element(DATA_SET_TYPE, US.pack(A_DATA_SET)),
        _element(AFFECTED_SOP_INSTANCE, _padded(command.sop_instance_uid)),
    )


def read_store_answer(command: bytes, message_id: int) -> int | None:
    """Return the status of a C-STORE response; None unless it is one to this message.

    A response may say more (PS3.7 annex C: error comment, offending element), which is
    passed over.
    """
    values = _elements(command)
    if values is None:
        return None
    is_answer = _number(values, COMMAND_FIELD) == C_STORE_RSP
    is_mine = _number(values, MESSAGE_ID_RESPONDED_TO) == message_id
    has_data = _number(values, DATA_SET_TYPE) != NO_DATA_SET
    return _number(values, STATUS) if is_answer and is_mine and not has_data else None


def _elements(command: bytes) -> dict[int, bytes] | None:
    """Return a command set's values by element number; None when it is malformed."""
    values: dict[int, bytes] = {}
    position = 0
    while position + ELEMENT.size <= len(command):
        group, element, length = ELEMENT.unpack_from(command, position)
        position += ELEMENT.size
        if group or element in values:
            return None
        values[element] = command[position : position + length]
        position += length
    return values if position == len(command) else None


def _command(context_id: int, *encoded: bytes) -> bytes:
    """Return the PDU of a command set, whole in one fragment."""
    elements = b"".join(encoded)
    length = _element(0x0000, struct.pack("<L", len(elements)))
    content = length + elements
    fragment = FRAGMENT_HEADER.pack(
        len(content) + CONTEXT_AND_CONTROL, context_id, IS_COMMAND | IS_LAST
    )
    return PDU_HEADER.pack(P_DATA_TF, len(fragment) + len(content)) + fragment + content


def _element(element: int, value: bytes) -> bytes:
    return ELEMENT.pack(0, element, len(value)) + value


def _padded(uid: str) -> bytes:
    value = uid.encode("ascii")
    return value + b"\x00" * (len(value) % 2)


def _number(values: dict[int, bytes], element: int) -> int | None:
    value = values.get(element, b"")
    return int(US.unpack(value)[0]) if len(value) == US.size else None


def _uid(values: dict[int, bytes], element: int) -> str:
    """Return a UID; nothing when it is missing or none."""
    text = values.get(element, b"").decode("ascii", "replace").rstrip("\x00 ")
    return text if is_valid_uid(text) else ""
