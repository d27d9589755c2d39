"""Every object of the tests is of a patient whom nobody could miss; here we look.

While the suite runs, what Sentinode logs, prints, raises in commands, sends to the
broker, serves as metrics and calls its files is searched for the name, the ID and the
birth date of that patient. What is found fails the test that let it out. Commands that
are asked for names (`--phi`) may print them.
"""

import base64
import logging
import re
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from dicom_node import logs
from dicom_node.settings import load
from worker.settings import WorkerSettings

MARK = re.compile(
    rb"marker[\^ ,]+patient|marker-pid|erasable[\^ ,]+erna|erase-me-77"
    rb"|zzyzxova|id-77-marker-31|(?<![\d.])(?:19700203|19610611)(?!\d)"
    rb"|1970-02-03|1961-06-11",
    re.IGNORECASE,
)
"""Names, IDs and birth dates that the builders of objects and messages use."""

ENCODED = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")
LOGGERS = ("dicom_node", "worker", "training", *logs.QUOTING_LOGGERS, "celery", "kombu")
OURS = ("worker.cli", "dicom_node", "training", "worker.hl7")
PAGE = re.compile(r"status page: (http://\S+)")
TEXTS = ("*.log", "*.log.*", "*.prom", "notified.json", "up.json", "audit.head")


class PatientNamedError(AssertionError):
    """Something says who the patient is."""


def look(what: str, content: bytes | str) -> None:
    """Fail when a text holds a mark, in plain or as base64."""
    raw = content if isinstance(content, bytes) else content.encode(errors="replace")
    found = MARK.search(raw)
    for encoded in ENCODED.findall(raw):
        with suppress(ValueError):
            found = found or MARK.search(base64.b64decode(encoded + b"=="))
    if found:
        start = max(found.start() - 60, 0)
        around = raw[start : found.end() + 60] if found.string is raw else found.string
        raise PatientNamedError(f"{what} names the patient: {around!r}")


def look_into(folder: Path) -> None:
    """Look at the names of all files below a folder, and into those that are texts."""
    for path in folder.rglob("*"):
        look("a file name", str(path.relative_to(folder)))
    for pattern in TEXTS:
        for path in folder.rglob(pattern):
            if path.is_file():
                look(str(path), path.read_bytes())


class Listening(logging.Handler):
    """Formats what would be logged as our processes do, and remembers what names."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logs.formatter())
        self.addFilter(logs.WithholdQuotes())
        self.found: list[PatientNamedError] = []

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a copy: other handlers have the record as it was made."""
        return bool(super().handle(logging.makeLogRecord(vars(record))))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            look(f"a log line of {record.name}", self.format(record))
        except PatientNamedError as error:
            self.found.append(error)


class BrokerTap:
    """Listens to every command that a broker is given, until its connection ends."""

    def __init__(self, data_dir: Path) -> None:
        self.heard = 0
        self.found: PatientNamedError | None = None
        self._path = str(load(WorkerSettings, data_dir=data_dir).broker_socket)
        self._socket = socket.socket(socket.AF_UNIX)
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def start(self) -> "BrokerTap":
        with suppress(OSError):  # an installation with another broker has none here
            self._socket.connect(self._path)
            self._socket.sendall(b"MONITOR\r\n")
            self._thread.start()
        return self

    def _listen(self) -> None:
        rest = b""
        with suppress(OSError):
            while chunk := self._socket.recv(65536):
                self.heard += len(chunk)
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._look(line)

    def _look(self, line: bytes) -> None:
        try:
            look("a message in the broker", line)
        except PatientNamedError as error:
            self.found = self.found or error

    def end(self) -> None:
        """Stop listening; fail when a command named the patient."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(5)
        self._socket.close()
        if self.found is not None:
            raise self.found


def look_at_metrics(folder: Path) -> None:
    """Look at what a running installation serves, where it serves anything."""
    page = PAGE.findall((folder / "up.log").read_text(errors="replace"))
    if not page:
        return
    for path in ("", "metrics"):
        with (
            suppress(OSError),
            urllib.request.urlopen(page[-1] + path, None, 10) as one,  # noqa: S310 - ours
        ):
            look(f"/{path}", one.read())


@pytest.fixture(scope="session", autouse=True)
def listening() -> Iterator[Listening]:
    """Listen to all logs, and look at what commands print, for the whole session."""
    handler = Listening()
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CliRunner, "invoke", _invoke)
        patch.setattr(subprocess, "run", _run)
        yield handler
    for name in LOGGERS:
        logging.getLogger(name).removeHandler(handler)


@pytest.fixture(autouse=True)
def nobody_is_named(listening: Listening, request: pytest.FixtureRequest):
    """Fail a test whose logs or files name the patient."""
    folder = None
    if "tmp_path" in request.fixturenames:
        folder = request.getfixturevalue("tmp_path")
    yield
    found, listening.found = listening.found, []
    if found:
        raise found[0]
    if folder is not None:
        look_into(folder)


INVOKE, RUN = CliRunner.invoke, subprocess.run


def _invoke(self, cli, args=None, *others, **more):
    done = INVOKE(self, cli, args, *others, **more)
    said = [args] if isinstance(args, str) else list(map(str, args or ()))
    if "--phi" not in said:
        look(f"the output of {said[:3]}", done.output)
        if not isinstance(done.exception, SystemExit | None):
            look(f"the error of {said[:3]}", str(done.exception))
    return done


def _run(command, *others, **more):
    done = RUN(command, *others, **more)
    words = list(map(str, command)) if isinstance(command, list | tuple) else []
    if any(word in OURS for word in words) and "--phi" not in words:
        for stream in (done.stdout, done.stderr):
            look(f"the output of {words[:5]}", stream or b"")
    return done
