"""Logging: one JSON object a line on stderr, constant messages, no patient in it.

Warnings and log texts of the DICOM libraries quote element values, names and birth
dates among them, so of their records only the logger's name and a constant remain.
"""

import logging
import sys
import warnings
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

QUOTING_LOGGERS: Final = ("pydicom", "pynetdicom", "highdicom", "py.warnings")
HL7_LIBRARY: Final = "/hl7/"
"""python-hl7 names its loggers by their files, and quotes fields in what it says."""
QUEUE_LOGGERS: Final = ("celery", "billiard", "kombu")
TASK_FAILED: Final = "a task failed; its error's text is withheld"
WITHHELD: Final = "a library's message is withheld: it may quote a patient's data"


class WithholdQuotes(logging.Filter):
    """Takes the text, the arguments and the traceback from records that may quote."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Clean the record; every record passes."""
        if _quotes(record.name):
            record.msg, record.args = WITHHELD, None
            record.exc_info = record.exc_text = record.stack_info = None
        elif record.name.split(".")[0] in QUEUE_LOGGERS and "data" in vars(record):
            _withhold_error(record)
        return True


def _quotes(name: str) -> bool:
    first = name.split(".", maxsplit=1)[0]
    return first in QUOTING_LOGGERS or name == "py.warnings" or HL7_LIBRARY in name


def _withhold_error(record: logging.LogRecord) -> None:
    """Keep name and identifier of a task; the text of its error may quote values."""
    data = vars(record)["data"]
    if record.levelno >= logging.WARNING:
        record.msg, record.args = TASK_FAILED, None
    record.data = {name: data[name] for name in ("id", "name") if name in data}


def configure(
    level: int = logging.INFO, stream: TextIO | None = None, style: str = "json"
) -> None:
    """Send all logging of this process to stderr; may be called twice.

    A line is JSON, or with the style "console" a text for people of the same content.

    Python warnings become log records, withheld like those of the libraries.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(style))
    handler.addFilter(WithholdQuotes())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in (*QUOTING_LOGGERS, "alembic"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(capture=True)
    warnings.filterwarnings("ignore", module=r"pydicom|pynetdicom|highdicom")


def formatter(style: str = "json") -> logging.Formatter:
    """Return what makes a line of a record that `WithholdQuotes` has passed."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        ],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _describe_exception,
            *_renderers(style),
        ],
    )


def _renderers(style: str) -> list[Processor]:
    if style == "console":
        return [structlog.dev.ConsoleRenderer(colors=False, timestamp_key="at")]
    return [
        structlog.processors.EventRenamer("message"),
        structlog.processors.JSONRenderer(default=str),
    ]


def _describe_exception(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> Mapping[str, Any]:
    """Put type and place of an exception in, not its text: that may quote values."""
    del logger, method
    found = event.pop("exc_info", None)
    if isinstance(found, tuple) and found[0] is not None:
        event["error"] = found[0].__name__
        traceback = found[2]
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        if traceback is not None:
            code = traceback.tb_frame.f_code
            event["where"] = f"{code.co_filename}:{traceback.tb_lineno}"
    return event
