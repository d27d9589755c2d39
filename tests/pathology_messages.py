"""HL7 messages as a pathology system writes them, and peers that send them."""

import socket
import ssl
from contextlib import contextmanager
from pathlib import Path

VT, END = b"\x0b", b"\x1c\r"
AUTHORITY = "HOSP"


def message(
    *orders: str,
    control_id: str = "M1",
    patient: str = "MARKER-PID-1",
    kind: str = "ORU^R01^ORU_R01",
    **header: str,
) -> bytes:
    """An ORU with the name and birth date that no log may hold."""
    charset = header.get("charset", "UNICODE UTF-8")
    version = header.get("version", "2.5.1")
    msh = (
        f"MSH|^~\\&|{header.get('application', 'LIS')}|HOSP|SENTINODE|RAD|"
        f"{header.get('at', '20260401120000')}||{kind}|{control_id}|"
        f"{header.get('processing', 'P')}|{version}||||||{charset}"
    )
    pid = f"PID|1||{patient}^^^{AUTHORITY}^MR~99^^^OTHER||Marker^Patient||19700203|F"
    text = "\r".join([msh, pid, *orders]) + "\r"
    codec = "iso8859-1" if charset.startswith("8859") else "utf-8"
    return text.encode(codec)


def order(
    value: str = "10828004^Positive^SCT",
    status: str = "F",
    side: str = "Left axilla",
    day: str = "20260401",
    name: str = "396487001^Sentinel lymph node biopsy^SCT",
) -> str:
    """One OBR with its OBX."""
    return (
        f"OBR|1|||396487001^Sentinel lymph node biopsy^SCT|||{day}||||||||^^^{side}\r"
        f"OBX|1|CWE|{name}||{value}||||||{status}"
    )


def fields(answer: bytes) -> dict[str, list[str]]:
    """The segments of an answer by name."""
    lines = answer.strip(VT + END).decode().split("\r")
    return {line[:3]: line.split("|") for line in lines if line}


def code(answer: bytes) -> str:
    return fields(answer)["MSA"][1]


@contextmanager
def calling(port: int, tls: ssl.SSLContext | None = None):
    """A plain socket to the listener, wrapped where TLS is asked for."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=15)
    with plain:
        if tls is None:
            yield plain
            return
        with tls.wrap_socket(plain, server_hostname="localhost") as wrapped:
            yield wrapped


def exchange(connection: socket.socket, content: bytes) -> bytes:
    """Send one message and return its answer, b"" when the peer closed."""
    connection.sendall(VT + content + END)
    return read_answer(connection)


def read_answer(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(END):
        chunk = connection.recv(4096)
        if not chunk:
            break
        received += chunk
    return received


def words_file(folder: Path) -> Path:
    path = folder / "words.toml"
    path.write_text(
        'observations = ["SLNH^L"]\n'
        "[results]\n"
        '"node involved" = "positive"\n'
        '"N+^L" = "macro"\n'
        "[sides]\n"
        '"axilla li" = "L"\n',
        encoding="utf-8",
    )
    return path
