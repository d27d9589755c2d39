"""`sentinode audit`: who did what to which study, and whether the record holds."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dicom_node import atna, audit, chain, witness
from dicom_node.atna import Origin
from dicom_node.audit import Entry
from dicom_node.chain import Head, Verdict
from dicom_node.errors import SettingsError
from worker import relay
from worker.cli import signed
from worker.cli.context import Site, UtcTime, site_options
from worker.cli.printing import json_option, print_json, print_table, rfc3339

TIME = UtcTime(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ"])
since_option = click.option("--since", type=TIME, help="Then or later, UTC.")
until_option = click.option("--until", type=TIME, help="Before then, UTC.")


@click.group("audit")
def command() -> None:
    """Who did what to which study, and whether the record of it holds.

    Entries are only ever added. What the service does is entered within a minute,
    what a person does at once. A patient is a keyed hash.
    """


@command.command("list")
@since_option
@until_option
@click.option("--actor", help="User, AE title or process.")
@click.option("--study", metavar="UID", help="Only of this study, erased ones too.")
@json_option
@site_options
def list_entries(  # noqa: PLR0913 - one argument for each option
    site: Site,
    *,
    since: datetime | None,
    until: datetime | None,
    actor: str | None,
    study: str | None,
    as_json: bool,
) -> None:
    """List entries, oldest first.

    Example: sentinode audit list --since 2026-03-01 --actor anna
    """
    with site.reading() as session:
        found = audit.entries(
            session, since=since, until=until, actor=actor, study=study
        )
        rows = [_document(one) for one in found]
    if as_json:
        print_json(rows)
        return
    columns = (
        *("sequence", "at", "what", "actor", "host"),
        *("study_uid", "peer", "object", "detail", "outcome"),
    )
    print_table("Audit", columns, [[row[name] for name in columns] for row in rows])


def _document(entry: Entry) -> dict[str, Any]:
    one = entry.event
    return {
        "sequence": entry.sequence,
        "at": rfc3339(one.at),
        "event_id": one.code,
        "event_type": one.kind,
        "action": one.action,
        "outcome": one.outcome,
        "what": one.what,
        "actor": one.actor,
        "host": one.host,
        "study_uid": one.study,
        "peer": one.peer,
        "object": one.object_id,
        "patient_key": one.patient,
        "detail": one.detail,
        "hash": entry.hash,
    }


@command.command()
@click.option(
    "--no-head",
    is_flag=True,
    help="On a host that has entered nothing yet: do not ask for its audit.head.",
)
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Syslog lines of a collector or an export: all of them must be here.",
)
@json_option
@site_options
def verify(site: Site, *, no_head: bool, against: Path | None, as_json: bool) -> None:
    """Walk the chain of hashes; exit code 1 at the first entry that does not hold.

    An entry that was altered, deleted, inserted or moved is named. That the newest
    ones were cut off shows by the file audit.head in the data folder, and against
    somebody who can write that too by `--against` what a collector holds.

    Example: sentinode audit verify --against /var/log/collected/sentinode.log
    """
    trail = site.trail
    head = _head(site)
    witnessed = chain.NOTHING if against is None else witness.read(against)
    with site.reading() as session:
        verdict = audit.verify(session, trail, head, witnessed)
    if head is None and verdict.entries and verdict.holds and not no_head:
        fault = f"the file {trail.head_file.name} is missing: entries may be cut off"
        verdict = Verdict(verdict.entries, verdict.head, verdict.entries + 1, fault)
    if as_json:
        print_json(
            {
                "holds": verdict.holds,
                "entries": verdict.entries,
                "head": verdict.head.hash,
                "sequence": verdict.sequence,
                "fault": verdict.fault,
            }
        )
    elif verdict.holds:
        click.echo(f"{verdict.entries} entries hold; the newest is {verdict.head.hash}")
    else:
        click.echo(
            f"entry {verdict.sequence} does not hold, {verdict.entries} before it do: "
            f"{verdict.fault}"
        )
    if not verdict.holds:
        raise SystemExit(1)


def _head(site: Site) -> Head | None:
    try:
        return audit.known_head(site.trail)
    except (ValueError, KeyError, OSError) as error:
        raise SettingsError(
            f"{site.trail.head_file} cannot be read ({type(error).__name__}): restore "
            "it from a backup, or compare with what was exported"
        ) from error


@command.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@since_option
@until_option
@json_option
@site_options
def export(
    site: Site,
    *,
    out: Path,
    since: datetime | None,
    until: datetime | None,
    as_json: bool,
) -> None:
    """Write entries to OUT as syslog lines (RFC 5424) with DICOM audit messages.

    One line each, PS3.15 A.5 XML inside, with the entry's number and hash. What is
    kept elsewhere, nobody here can take back: `verify --against` compares it. With
    SENTINODE_AUDIT_SYSLOG the same lines go to a collector by themselves. The export
    is itself an entry.
    """
    with site.writing.begin() as session:
        signed.audit_log(session, site, "audit export")
    with site.reading() as session:
        found = audit.entries(session, since=since, until=until)
        count = _write(found, out, Origin(site.settings.aet))
    if as_json:
        print_json({"file": str(out), "entries": count})
    else:
        click.echo(f"{count} entries in {out}")


def _write(found: Iterator[Entry], out: Path, origin: Origin) -> int:
    """Write a file whole or not at all."""
    draft = out.with_name(f".{out.name}.part")
    count = 0
    try:
        with draft.open("w", encoding="utf-8", newline="\n") as file:
            for one in found:
                file.write(atna.line(one, origin) + "\n")
                count += 1
        draft.replace(out)
    except OSError as error:
        raise SettingsError(
            f"{out} cannot be written: {error.strerror}; name another file"
        ) from error
    finally:
        draft.unlink(missing_ok=True)
    return count


@command.command()
@click.option(
    "--from",
    "first",
    type=click.IntRange(min=1),
    required=True,
    metavar="NUMBER",
    help="The first entry that is sent again.",
)
@json_option
@site_options
def resend(site: Site, *, first: int, as_json: bool) -> None:
    """Send entries to the collector again, from one number on.

    For a collector that lost what it had taken. Each message has its number.

    Example: sentinode audit resend --from 1
    """
    collector = site.settings.audit_syslog
    if collector is None:
        raise SettingsError("there is no collector: set SENTINODE_AUDIT_SYSLOG")
    with site.writing.begin() as session:
        relay.set_back(session, collector, first)
        signed.audit_log(session, site, "audit resend", f"from entry {first}")
        waiting = relay.standing(session, collector).waiting
    if as_json:
        print_json({"collector": str(collector), "waiting": waiting})
    else:
        click.echo(f"{waiting} entries wait for {collector}")
