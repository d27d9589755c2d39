"""Damaged conversations with a real listening process."""

from collections import Counter

import pytest

from tests.fuzz import wire

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def test_a_listener_gives_everything_back_after_damaged_conversations(tmp_path):
    told = Counter()
    with wire.serving(tmp_path) as served:
        assert wire.storm(served, 2500, 20261124, told) == []
        outcomes = served.outcomes
    log = (tmp_path / "log").read_text()
    assert told["pdus"] >= 2500
    assert {"accepted, answered", "aborted", "rejected"} <= set(outcomes)
    assert "Traceback" not in log
    assert "Marker" not in log
