"""`sentinode deliveries`: what was sent where, and what waits."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click
from sqlalchemy.orm import Session

from dicom_node import commitment, ledger, outbox
from dicom_node.commitment import RequestRecord
from dicom_node.db import now
from dicom_node.outbox import DeliveryRecord
from dicom_node.statuses import meaning, written
from dicom_node.study import StudyUid
from dicom_node.tables import DeliveryState
from worker.cli import signed
from worker.cli.context import (
    Site,
    changing,
    dry_run_option,
    limit_option,
    operator,
    site_options,
)
from worker.cli.printing import json_option, print_json, print_table, rfc3339


@click.group("deliveries")
def command() -> None:
    """What was sent where, and what waits."""


def _status(value: int | None) -> str | None:
    return None if value is None else written(value)


def _meaning(value: int | None) -> str | None:
    return None if value is None else meaning(value)


def _explained(value: int | None) -> str | None:
    return None if value is None else f"{written(value)} {meaning(value)}"


def _time(value: datetime | None) -> str | None:
    return None if value is None else rfc3339(value)


def _as_document(one: DeliveryRecord) -> dict[str, Any]:
    return {
        "delivery_id": one.delivery_id,
        "result_id": one.result_id,
        "study_uid": one.study_uid,
        "sop_instance_uid": one.sop_instance_uid,
        "sop_class_uid": one.sop_class_uid,
        "variant_of": one.variant_of,
        "kind": one.kind,
        "destination": one.destination,
        "state": one.state,
        "attempts": one.attempts,
        "last_status": _status(one.last_status),
        "last_status_meaning": _meaning(one.last_status),
        "last_error": one.last_error,
        "next_attempt_at": _time(one.next_attempt_at),
        "sent_at": _time(one.sent_at),
        "commitment": _commitment(one),
    }


def _commitment(one: DeliveryRecord) -> dict[str, Any] | None:
    if one.commitment is None:
        return None
    return {
        "state": one.commitment,
        "requests": one.commitment_tries,
        "next_request_at": _time(one.commitment_at),
        "resends": one.resends,
        "note": one.commitment_note,
    }


def _row(one: DeliveryRecord) -> tuple[object, ...]:
    return (
        one.delivery_id,
        one.study_uid,
        one.kind if one.variant_of is None else f"{one.kind} (as {one.sop_class_uid})",
        one.destination,
        one.state,
        one.attempts,
        _explained(one.last_status),
        one.last_error,
        one.next_attempt_at,
        one.commitment
        if one.commitment_note is None
        else f"{one.commitment}: {one.commitment_note}",
    )


@command.command("list")
@click.option("--state", type=click.Choice([one.value for one in DeliveryState]))
@click.option("--study", "uid", help="Only this Study Instance UID.")
@limit_option(100)
@json_option
@site_options
def list_deliveries(
    site: Site, state: str | None, uid: str | None, limit: int, *, as_json: bool
) -> None:
    """List deliveries, newest first.

    A report that an archive takes only as another SR class is listed as what it got.
    """
    with site.reading() as session:
        study = ledger.study(session, StudyUid(uid)).study_uid if uid else None
        found = outbox.deliveries(
            session,
            study_uid=study,
            state=DeliveryState(state) if state else None,
            limit=limit,
        )
    if as_json:
        print_json([_as_document(one) for one in found])
        return
    columns = (
        "delivery",
        "study",
        "kind",
        "destination",
        "state",
        "attempts",
        "last status",
        "last error",
        "next attempt",
        "commitment",
    )
    print_table("Deliveries", columns, [_row(one) for one in found])


@command.command("show")
@click.argument("delivery_id")
@json_option
@site_options
def show(site: Site, delivery_id: str, *, as_json: bool) -> None:
    """Show one delivery and every request for storage commitment."""
    with site.reading() as session:
        found = outbox.lookup(session, delivery_id)
        requests = commitment.requests(session, delivery_id)
    document = _as_document(found)
    if as_json:
        print_json(document | {"commitment_requests": _as_documents(requests)})
        return
    rows = [(name, value) for name, value in document.items() if name != "commitment"]
    rows += [
        (f"commitment {name}", value)
        for name, value in (document["commitment"] or {}).items()
    ]
    print_table(f"Delivery {delivery_id}", ("", ""), rows)
    print_table(
        "Requests for storage commitment",
        ("transaction", "object", "state", "reason", "asked", "reported"),
        [
            (
                one.transaction_uid,
                one.sop_instance_uid,
                one.state,
                _explained(one.failure_reason),
                one.asked_at,
                one.reported_at,
            )
            for one in requests
        ],
    )


def _as_documents(requests: Sequence[RequestRecord]) -> list[dict[str, Any]]:
    return [
        {
            "transaction_uid": one.transaction_uid,
            "sop_instance_uid": one.sop_instance_uid,
            "state": one.state,
            "failure_reason": _status(one.failure_reason),
            "asked_at": rfc3339(one.asked_at),
            "reported_at": _time(one.reported_at),
        }
        for one in requests
    ]


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
        due = outbox.retry(session, delivery_id, now(), operator())
        for each in due:
            _sign(session, site, "deliveries retry", each)
    if as_json:
        print_json(due)
    else:
        click.echo(f"{len(due)} due now")


@command.command()
@click.argument("delivery_id")
@dry_run_option
@json_option
@site_options
def cancel(site: Site, delivery_id: str, *, dry_run: bool, as_json: bool) -> None:
    """Do not send DELIVERY_ID any more; `retry` takes it up again.

    Refused (exit code 4) once it was sent, and while it is being sent.
    """
    with changing(site, dry_run=dry_run) as session:
        outbox.cancel(session, delivery_id, now(), operator())
        _sign(session, site, "deliveries cancel", delivery_id)
    done = "would be cancelled" if dry_run else "cancelled"
    if as_json:
        print_json({"delivery_id": delivery_id, "done": done})
    else:
        click.echo(done)


def _sign(session: Session, site: Site, what: str, delivery_id: str) -> None:
    one = outbox.lookup(session, delivery_id)
    detail = f"{one.kind} to {one.destination}"
    signed.thing(session, site, what, delivery_id, detail, study=one.study_uid)
