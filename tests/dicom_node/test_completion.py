from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.completion import (
    ABANDONED_AFTER,
    QuietPeriods,
    Standing,
    is_abandoned,
    quiet_until,
)
from dicom_node.study import Reason, StudyState

T0 = datetime(2026, 3, 4, 10, 0, tzinfo=UTC)
QUIET = timedelta(seconds=120)
MR = "1.2.840.10008.5.1.4.1.1.4"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
KOS = "1.2.840.10008.5.1.4.1.1.88.59"


def standing(state=StudyState.RECEIVING, reason=None, quiet=QUIET):
    return Standing(state, reason, T0, T0 + quiet)


def wait(before: Standing, *sop_classes: str) -> timedelta:
    return quiet_until(before, frozenset(sop_classes), T0, QUIET) - T0


def test_each_sender_has_its_quiet_period():
    periods = QuietPeriods(QUIET, {"SLOW": timedelta(minutes=10)})
    assert periods.of("SLOW") == timedelta(minutes=10)
    assert periods.of("ANY") == QUIET


@pytest.mark.parametrize("state", sorted(set(StudyState) - {StudyState.HELD}))
def test_an_arrival_starts_the_quiet_period_anew(state):
    assert wait(standing(state), MR) == QUIET


@pytest.mark.parametrize("reason", [Reason.NO_ROI, Reason.ROI_IMAGE_MISSING])
@pytest.mark.parametrize("sop_class", [GSPS, MR])
def test_what_a_held_study_lacked_makes_it_due_at_once(reason, sop_class):
    assert wait(standing(StudyState.HELD, reason), sop_class) == timedelta(0)


def test_what_cannot_carry_a_rectangle_waits_as_usual():
    assert wait(standing(StudyState.HELD, Reason.NO_ROI), KOS) == QUIET


def test_a_study_held_for_another_reason_waits_as_usual():
    assert wait(standing(StudyState.HELD, Reason.ROI_CONFLICT), GSPS) == QUIET


def test_a_study_that_is_due_at_once_stays_so_while_its_association_goes_on():
    assert wait(standing(quiet=timedelta(0)), GSPS, MR) == timedelta(0)


def test_an_association_that_brings_nothing_for_an_hour_is_not_waited_for():
    assert is_abandoned(T0, T0 + ABANDONED_AFTER)
    assert not is_abandoned(T0, T0 + ABANDONED_AFTER - timedelta(seconds=1))
