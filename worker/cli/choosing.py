"""Options that choose studies: by patient, date, state, model and score."""

from collections.abc import Callable, Sequence
from datetime import date, datetime
from functools import reduce
from typing import Any, Final, TypeVar

import click

from dicom_node import ledger
from dicom_node.findings import Stage
from dicom_node.settings import patient_secret
from dicom_node.study import Reason, StudyState, StudyUid
from worker.cli.context import DAY, Site, patient_id_of
from worker.reprocessing import Wanted

F = TypeVar("F", bound=Callable[..., Any])

SHARE: Final = click.FloatRange(0, 1)
RANGES: Final = (
    ("received_since", "received_until"),
    ("studied_since", "studied_until"),
    ("score_min", "score_max"),
)
OPTIONS: Final = (
    click.option("--patient-id", help="Of this patient; - reads it from stdin."),
    click.option("--received-since", type=DAY, help="Last object then or later."),
    click.option("--received-until", type=DAY, help="Last object before that day."),
    click.option("--studied-since", type=DAY, help="MRI on that day or later."),
    click.option("--studied-until", type=DAY, help="MRI on that day or before."),
    click.option("--state", type=click.Choice([one.value for one in StudyState])),
    click.option("--reason", type=click.Choice([one.value for one in Reason])),
    click.option("--model", metavar="NAME@VERSION", help="Newest result is of it."),
    click.option(
        "--stage", type=click.Choice([one.value for one in Stage]), default="SLN"
    ),
    click.option("--score-min", type=SHARE, help="Probability of --stage."),
    click.option("--score-max", type=SHARE, help="Probability of --stage."),
)


def choice_options(command: F) -> F:
    """Add the options; `wanted_of` reads them from the command's arguments."""
    return reduce(lambda made, option: option(made), reversed(OPTIONS), command)


def wanted_of(site: Site, uids: Sequence[str], said: dict[str, Any]) -> Wanted:
    """Return what the options choose.

    Raises:
        UsageError: A range ends before it begins: nothing could match.
    """
    for low, high in RANGES:
        if said[low] is not None and said[high] is not None and said[low] > said[high]:
            options = [f"--{name.replace('_', '-')}" for name in (low, high)]
            raise click.UsageError(f"{' is above '.join(options)}: nothing can match")
    key = None
    if said["patient_id"] is not None:
        patient_id = patient_id_of(said["patient_id"])
        key = ledger.patient_key(patient_secret(site.settings), patient_id)
    return Wanted(
        uids=tuple(map(StudyUid, uids)),
        patient_key=key,
        received=(said["received_since"], said["received_until"]),
        studied=(_day(said["studied_since"]), _day(said["studied_until"])),
        state=StudyState(said["state"]) if said["state"] else None,
        reason=Reason(said["reason"]) if said["reason"] else None,
        model=said["model"],
        stage=Stage(said["stage"]),
        scores=(said["score_min"], said["score_max"]),
    )


def _day(value: datetime | None) -> date | None:
    return None if value is None else value.date()
