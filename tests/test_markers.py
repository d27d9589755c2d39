"""The search for the patient's identity finds it: each way out is tried here."""

import base64
import logging
import socket
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from pydicom import Dataset

from dicom_node.settings import load
from tests import dicom_objects, markers
from tests.markers import BrokerTap, Listening, PatientNamedError, look, look_into
from worker.settings import WorkerSettings

NAME, ID, BIRTH = dicom_objects.PATIENT, "MARKER-PID-1", "19700203"
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("said", [NAME, NAME.upper(), ID, BIRTH, "1970-02-03"])
def test_each_part_of_the_identity_is_found(said):
    with pytest.raises(PatientNamedError):
        look("a text", f'{{"x": "{said}"}}')
    with pytest.raises(PatientNamedError):
        look("a message", base64.b64encode(f'[["{said}"]], {{}}, null'.encode()))
    look("a UID", f"2.25.1{BIRTH}1")


def test_the_objects_of_the_tests_are_of_the_patient_who_is_looked_for():
    made = dicom_objects.mr_slice()
    for value in (made.PatientName, made.PatientID, made.PatientBirthDate):
        with pytest.raises(PatientNamedError):
            look("an object", str(value))
    assert isinstance(made, Dataset)


def logger(name: str) -> logging.Logger:
    """Return a logger that nothing else listens to."""
    return logging.Logger(name)  # noqa: LOG001 - as said


@pytest.mark.parametrize("where", ["message", "extra", "argument"])
def test_a_log_line_that_names_the_patient_is_found(where):
    handler, log = Listening(), logger("worker.x")
    log.addHandler(handler)
    if where == "message":
        log.warning(f"stored {NAME}")  # noqa: G004 - what must not be
    elif where == "extra":
        log.warning("stored", extra={"patient": ID})
    else:
        log.warning("stored %s", BIRTH)
    assert len(handler.found) == 1


def test_what_our_logs_withhold_counts_as_withheld():
    handler = Listening()
    for name in ("pydicom.valuerep", "worker"):
        log = logger(name)
        log.addHandler(handler)
        try:
            int(NAME)
        except ValueError:
            log.exception("it failed" if name == "worker" else NAME)
    assert handler.found == []


def test_a_name_of_a_file_and_a_line_in_a_log_are_found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    (folder / "a.log").write_text("nothing\n")
    look_into(folder)
    (folder / f"{ID}.dcm").touch()
    with pytest.raises(PatientNamedError, match="file name"):
        look_into(folder)
    (folder / f"{ID}.dcm").unlink()
    (folder / "a.log").write_text(f"stored {NAME}\n")
    with pytest.raises(PatientNamedError, match=r"a\.log"):
        look_into(folder)


@click.command()
@click.option("--phi", is_flag=True)
def says(*, phi: bool) -> None:
    click.echo(NAME if phi else f"of {NAME}", err=True)


def test_a_command_that_prints_the_name_is_found_unless_it_was_asked_for():
    with pytest.raises(PatientNamedError):
        CliRunner().invoke(says, [])
    assert NAME in CliRunner().invoke(says, ["--phi"]).output


def test_a_process_that_prints_the_name_is_found():
    code = f"import sys; print({NAME!r}, file=sys.stderr)"
    with pytest.raises(PatientNamedError):
        subprocess.run(
            [sys.executable, "-c", code, "worker.cli"], capture_output=True, check=True
        )


def test_a_message_in_the_broker_is_found(tmp_path):
    body = base64.b64encode(f'[["{ID}"], {{}}, {{}}]'.encode())
    path = load(WorkerSettings, data_dir=tmp_path).broker_socket
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b'+OK\r\n"LPUSH" "analysis" "{\\"body\\": \\"')
                connection.sendall(body + b'\\"}"\r\n')

        thread = threading.Thread(target=serve)
        thread.start()
        tap = BrokerTap(tmp_path).start()
        thread.join()
        with pytest.raises(PatientNamedError, match="broker"):
            tap.end()


def test_a_suite_with_a_test_that_lets_the_name_out_fails(tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    (folder / "conftest.py").write_text("from tests.markers import *\n")
    (folder / "test_it.py").write_text(
        "import logging\n"
        "def test_quiet():\n    logging.getLogger('worker').warning('stored')\n"
        f"def test_loud():\n    logging.getLogger('worker').warning({NAME!r})\n"
        f"def test_file(tmp_path):\n    (tmp_path / {ID!r}).touch()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed, 2 errors" in done.stdout, done.stdout
    assert markers.MARK.search(done.stdout.encode())
