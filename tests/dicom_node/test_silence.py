import logging
import warnings

import pytest

from dicom_node.silence import LIBRARIES, silence


def speak() -> None:
    for name in LIBRARIES:
        logging.getLogger(name).error("DOE^JANE is no valid value")
    warnings.warn("DOE^JANE is no valid value", stacklevel=1)


def test_libraries_are_silent_inside_also_after_an_inner_silence(caplog):
    with silence():
        with silence():
            speak()
        speak()
    assert caplog.records == []


def test_they_speak_again_afterwards(caplog):
    with silence(), silence():
        pass
    with pytest.warns(UserWarning, match="DOE"):
        speak()
    assert len(caplog.records) == len(LIBRARIES)


def test_an_error_ends_it(caplog):
    with pytest.raises(ValueError, match="broken"), silence():
        raise ValueError("broken")
    with pytest.warns(UserWarning, match="DOE"):
        speak()
    assert len(caplog.records) == len(LIBRARIES)
