import io
import json
import logging
import subprocess
import sys
import warnings

import pytest

from dicom_node import logs

PATIENT = "Marker^Patient"  # a patient's name, as it must not appear


@pytest.fixture
def lines():
    """Configure logging into a buffer; put everything back afterwards."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    names = (*logs.QUOTING_LOGGERS, "alembic")
    levels = {name: logging.getLogger(name).level for name in names}
    buffer = io.StringIO()
    with warnings.catch_warnings():
        logs.configure(stream=buffer)
        yield lambda: [json.loads(line) for line in buffer.getvalue().splitlines()]
    logging.captureWarnings(capture=False)
    root.handlers, root.level = before
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_a_line_is_one_json_object_with_time_and_extras(lines):
    logging.getLogger("dicom_node.x").info("stored", extra={"study_uid": "1.2"})
    (line,) = lines()
    assert line["message"] == "stored"
    assert line["study_uid"] == "1.2"
    assert (line["level"], line["logger"]) == ("info", "dicom_node.x")
    assert line["at"].endswith("Z")


@pytest.mark.parametrize("name", ["pydicom", "pynetdicom.acse", "highdicom.sr"])
def test_what_a_library_says_is_withheld(lines, name):
    try:
        int(PATIENT)
    except ValueError:
        logging.getLogger(name).exception("Invalid value %s", PATIENT)
    (line,) = lines()
    assert line["logger"] == name
    assert line["message"] == logs.WITHHELD
    assert PATIENT not in json.dumps(line)


def test_a_warning_that_quotes_a_value_is_withheld(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"Invalid value {PATIENT}", UserWarning, stacklevel=1)
    assert [line["message"] for line in lines()] == [logs.WITHHELD]


def test_an_exception_is_named_and_placed_but_not_quoted(lines):
    try:
        int(PATIENT)
    except ValueError:
        logging.getLogger("dicom_node").exception("failed")
    (line,) = lines()
    assert line["error"] == "ValueError"
    assert "test_logs.py:" in line["where"]
    assert PATIENT not in json.dumps(line)


def test_the_listener_imports_neither_torch_nor_a_queue():
    code = (
        "import sys, dicom_node.__main__;"
        "print([n for n in ('torch', 'celery', 'highdicom') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_lines_for_a_person_withhold_the_same(lines):
    buffer = io.StringIO()
    logs.configure(stream=buffer, style="console")
    logging.getLogger("dicom_node.x").info("stored", extra={"study_uid": "1.2"})
    logging.getLogger("pydicom").warning("Invalid value %s", PATIENT)
    try:
        int(PATIENT)
    except ValueError:
        logging.getLogger("dicom_node.x").exception("it failed")

    text = buffer.getvalue()
    assert "stored" in text
    assert "study_uid=1.2" in text
    assert "error=ValueError" in text
    assert PATIENT not in text
    assert "{" not in text.splitlines()[0]
