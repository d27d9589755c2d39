"""`sentinode queue`: what waits, what is paused, and the switch."""

from contextlib import suppress
from typing import Any, Final

import click
from celery import Celery

from dicom_node import pauses
from dicom_node.db import now
from dicom_node.errors import StateError
from dicom_node.tables import Pausable
from worker import queues
from worker.app import answering, reach, waiting
from worker.cli import signed
from worker.cli.context import Site, operator, site_options
from worker.cli.printing import json_option, print_json, print_table, rfc3339
from worker.metrics import counts
from worker.metrics.counts import Waiting

TIMEOUT_S: Final = 2
queue_argument = click.argument(
    "queue", type=click.Choice([one.value for one in Pausable])
)


@click.group("queue")
def command() -> None:
    """What waits to be analysed or sent; pause and resume it."""


@command.command()
@json_option
@site_options
def status(site: Site, *, as_json: bool) -> None:
    """Show what waits in the ledger, in the broker, and who works on it."""
    with site.reading() as session:
        found = _ledger(counts.waiting(session, now()))
        paused = pauses.paused(session)
    document = {
        **found,
        "messages": _messages(site),
        "workers": _workers(site),
        "paused": {
            queue: {
                "note": one.note,
                "by": one.set_by,
                "since": rfc3339(one.set_at),
            }
            for queue, one in paused.items()
        },
    }
    if as_json:
        print_json(document)
        return
    analysis, delivery = document["analysis"], document["delivery"]
    rows: list[tuple[str, object]] = [
        ("studies queued", f"{analysis['queued']}, {analysis['bulk']} of them bulk"),
        ("studies being analysed", analysis["analyzing"]),
        ("oldest queued study waits", _age(analysis["oldest_s"])),
        ("deliveries due", delivery["due"]),
        ("oldest due delivery waits", _age(delivery["oldest_s"])),
        *((f"messages in {name}", n) for name, n in document["messages"].items()),
        ("workers that answer", ", ".join(document["workers"]) or "none"),
        *(
            (f"PAUSED: {queue}", f"{one['note']}, by {one['by']} since {one['since']}")
            for queue, one in document["paused"].items()
        ),
    ]
    print_table("Queue", ("", ""), rows)


def _ledger(found: Waiting) -> dict[str, Any]:
    return {
        "analysis": {
            "queued": found.queued,
            "bulk": found.bulk,
            "analyzing": found.analyzing,
            "oldest_s": _seconds(found.queue_age_s),
        },
        "delivery": {"due": found.due, "oldest_s": _seconds(found.delivery_age_s)},
    }


def _seconds(age: float | None) -> float | None:
    return None if age is None else round(age, 1)


def _age(seconds: float | None) -> str:
    return "nothing waits" if seconds is None else f"{seconds:.0f} s"


def _messages(site: Site) -> dict[str, int | None]:
    """Return how many messages each queue of the broker holds, None without one."""
    found: dict[str, int | None] = dict.fromkeys(sorted(set(queues.QUEUE_OF.values())))
    with (
        suppress(Exception),  # each transport has errors of its own
        reach(site.settings.broker, TIMEOUT_S) as connection,
    ):
        connection.ensure_connection(max_retries=1, timeout=TIMEOUT_S)
        for name in found:
            found[name] = waiting(connection, name)
    return found


def _workers(site: Site) -> list[str]:
    with suppress(Exception):  # each transport has errors of its own
        return sorted(answering(Celery(broker=site.settings.broker), TIMEOUT_S))
    return []


@command.command()
@queue_argument
@click.option("--why", required=True, metavar="TEXT", help="For whoever finds it so.")
@json_option
@site_options
def pause(site: Site, queue: str, why: str, *, as_json: bool) -> None:
    """Let nothing more of a queue begin; what runs now ends, what comes is stored.

    Senders get Success as ever. `doctor` says that a queue is paused.

    Example: sentinode queue pause analysis --why "new GPU driver"
    """
    with site.writing.begin() as session:
        if Pausable(queue) in pauses.paused(session):
            raise StateError(f"{queue} is paused already")
        pauses.pause(session, Pausable(queue), why, operator(), now())
        signed.configuration(session, site, "queue pause", queue)
    _say(queue, "paused", as_json=as_json)


@command.command()
@queue_argument
@json_option
@site_options
def resume(site: Site, queue: str, *, as_json: bool) -> None:
    """Let a paused queue go on; what waits is taken up at once."""
    with site.writing.begin() as session:
        if Pausable(queue) not in pauses.paused(session):
            raise StateError(f"{queue} is not paused")
        pauses.resume(session, Pausable(queue), operator(), now())
        signed.configuration(session, site, "queue resume", queue)
    _say(queue, "goes on", as_json=as_json)


def _say(queue: str, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"queue": queue, "paused": done == "paused"})
    else:
        click.echo(f"{queue} {done}")
