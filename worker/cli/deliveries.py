"""`sentinode deliveries`: what was sent where, and what waits."""

from typing import Any

import click

from dicom_node import outbox
from dicom_node.db import now
from dicom_node.outbox import DeliveryRecord
from dicom_node.tables import DeliveryState
from worker.cli.context import (
    Site,
    json_option,
    print_json,
    print_table,
    rfc3339,
    site_options,
)


@click.group("deliveries")
def command() -> None:
    """What was sent where, and what waits."""


def _status(value: int | None) -> str | None:
    return None if value is None else f"0x{value:04X}"


def _as_document(one: DeliveryRecord) -> dict[str, Any]:
    return {
        "delivery_id": one.delivery_id,
        "result_id": one.result_id,
        "sop_instance_uid": one.sop_instance_uid,
        "kind": one.kind,
        "destination": one.destination,
        "state": one.state,
        "attempts": one.attempts,
        "last_status": _status(one.last_status),
        "last_error": one.last_error,
        "next_attempt_at": one.next_attempt_at and rfc3339(one.next_attempt_at),
    }


@command.command("list")
@click.option("--state", type=click.Choice([one.value for one in DeliveryState]))
@click.option("--limit", default=100, show_default=True, help="Newest first.")
@json_option
@site_options
def list_deliveries(
    site: Site, state: str | None, limit: int, *, as_json: bool
) -> None:
    """List deliveries, newest first."""
    with site.reading() as session:
        found = outbox.deliveries(
            session, state=DeliveryState(state) if state else None, limit=limit
        )
    rows = [_as_document(one) for one in found]
    if as_json:
        print_json(rows)
        return
    columns = (
        "delivery_id",
        "kind",
        "destination",
        "state",
        "attempts",
        "last_status",
        "last_error",
        "next_attempt_at",
    )
    print_table(
        "Deliveries", columns, [[row[name] for name in columns] for row in rows]
    )


@command.command()
@click.argument("delivery_id", required=False)
@click.option("--failed", is_flag=True, help="Retry every failed delivery.")
@json_option
@site_options
def retry(site: Site, delivery_id: str | None, *, failed: bool, as_json: bool) -> None:
    """Send a delivery again now: DELIVERY_ID, or all with --failed."""
    if bool(delivery_id) == failed:
        raise click.UsageError("give either a DELIVERY_ID or --failed")
    with site.writing.begin() as session:
        due = outbox.retry(session, delivery_id, now())
    if as_json:
        print_json(due)
    else:
        click.echo(f"{len(due)} due now")
