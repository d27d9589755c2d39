"""Keep values of data sets out of warnings and logs."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

LIBRARIES: Final = ("pydicom", "highdicom", "py.warnings", "pylibjpeg", "PIL")
"""Loggers whose messages quote what they read: names, dates, identifiers."""


_loggers: Final = tuple(map(logging.getLogger, LIBRARIES))
_SILENT: Final = logging.CRITICAL + 1


@contextmanager
def silence() -> Iterator[None]:
    """Drop what the DICOM libraries say while they touch a patient's values.

    pydicom and highdicom put the offending value into each warning and log line, so
    an unusual name or birth date would reach the log. Errors are raised as ever.
    The filters belong to the process: use this in one thread at a time. Within
    another silence it costs nothing.
    """
    levels = [logger.level for logger in _loggers]
    if all(level == _SILENT for level in levels):
        yield
        return
    for logger in _loggers:
        logger.setLevel(_SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(_loggers, levels, strict=True):
            logger.setLevel(level)
