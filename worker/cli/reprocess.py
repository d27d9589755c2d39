"""`sentinode studies reprocess`: one study, or a year of them, without a stop."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.errors import SettingsError, StateError
from worker import reprocessing
from worker.cli import signed
from worker.cli.choosing import choice_options, wanted_of
from worker.cli.context import Site, operator, site_options
from worker.cli.fetch import get_studies
from worker.cli.printing import json_option, print_json, print_table
from worker.reprocessing import Candidate, Plan, Start, Wanted

CHUNK: Final = 50
"""Studies that one transaction takes up: a writer of live work waits for no more."""

POLL_S: Final = 1.0


@click.command("reprocess")
@click.argument("uids", nargs=-1, metavar="[UID]...")
@click.option(
    "--from",
    "start",
    type=click.Choice([one.value for one in Start]),
    default=Start.INFERENCE.value,
    show_default=True,
    help="Where in the chain to begin; what comes before stands.",
)
@choice_options
@click.option("--everything", is_flag=True, help="All studies; nothing narrows.")
@click.option("--force", is_flag=True, help="Also what the active models scored.")
@click.option(
    "--batch",
    metavar="NAME",
    help="Its name; the same command again goes on where it was cut short.",
)
@click.option("--dry-run", is_flag=True, help="Count and say the cost; change nothing.")
@click.option(
    "--refetch",
    is_flag=True,
    help="With --from roi: get purged images from SENTINODE_QUERY first.",
)
@click.option("--wait", is_flag=True, help="Show progress until the batch is done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@site_options
def command(site: Site, uids: Sequence[str], **said: Any) -> None:  # noqa: ANN401 - the options above
    """Do studies again: those named, or all that the options choose.

    Live studies go first. Unless you name studies, those that the active models have
    scored already are passed over, and so is what a batch of the same name has done:
    give the same command again with its --batch to go on with one that was cut short.

    From roi on the marks are looked at anew, and a changed input makes a new result;
    from inference on the active models score the same input; from report on the numbers
    stand and the report is written anew; from delivery on the documents that exist are
    sent again.

    Example: sentinode studies reprocess --received-since 2026-01-01 --dry-run
    """
    wanted = wanted_of(site, uids, said)
    if wanted.is_everything and not said["everything"]:
        raise click.UsageError("name studies, narrow with options, or --everything")
    start = _start(said)
    batch = said["batch"] or f"{now():%Y%m%d-%H%M%S}"
    with site.reading() as session:
        scores = start is Start.INFERENCE
        plan = Plan(
            start=start,
            batch=batch,
            serving=reprocessing.in_service(session, site.settings.models)
            if scores
            else {},
            force=said["force"] or bool(uids),
            bulk=not uids,
        )
        _demand_known(session, wanted)
        found = reprocessing.consider(session, reprocessing.find(session, wanted), plan)
        cost = reprocessing.cost_ms(session, plan.start)
    due = [one for one in found if one.skipped is None]
    if uids and not said["dry_run"]:
        _demand_due(found)
    document = _document(plan, found, cost, site.settings.workers)
    if said["dry_run"]:
        _print(document, as_json=said["as_json"])
        return
    if due and not said["yes"] and not uids:
        _print(document, as_json=False, err=True)
        click.confirm(f"Reprocess {len(due)} studies?", abort=True, err=True)
    if said["refetch"]:
        document["refetched"] = _refetch(site, [one for one in due if one.purged], plan)
        due = [one for one in due if not one.purged]
    taken, refused = _take_up(site, due, plan)
    document |= {"taken_up": taken, "moved_on_meanwhile": refused}
    if said["wait"] and plan.start is not Start.DELIVERY:
        document["states"] = _follow(site, plan, taken)
    _print_done(document, uids, as_json=said["as_json"])


def _start(said: dict[str, Any]) -> Start:
    start = Start(said["start"])
    if said["refetch"] and start is not Start.ROI:
        raise click.UsageError("--refetch goes with --from roi alone")
    return start


def _demand_known(session: Any, wanted: Wanted) -> None:  # noqa: ANN401 - a session
    for uid in wanted.uids:
        ledger.study(session, uid)  # a wrong UID is "not found"
    if wanted.model is not None:
        reprocessing.demand_scorer(session, wanted.model)


def _demand_due(found: Sequence[Candidate]) -> None:
    """Refuse to pass over in silence a study that was named."""
    for one in found:
        if one.skipped is not None and one.skipped != "done in this batch":
            raise StateError(f"study {one.study_uid}: {one.skipped}")


def _document(
    plan: Plan, found: Sequence[Candidate], cost: float | None, workers: int
) -> dict[str, Any]:
    due = [one for one in found if one.skipped is None]
    return {
        "batch": plan.batch,
        "from": plan.start,
        "matched": len(found),
        "due": len(due),
        "due_purged": sum(one.purged for one in due),
        "due_by_state": dict(Counter(one.state.value for one in due)),
        "passed_over": dict(Counter(one.skipped for one in found if one.skipped)),
        "cost": None
        if cost is None
        else {
            "median_ms": round(cost, 1),
            "workers": workers,
            "estimated_s": round(len(due) * cost / 1000 / workers, 1),
        },
    }


def _print(document: dict[str, Any], *, as_json: bool, err: bool = False) -> None:
    if as_json:
        print_json(document)
        return
    rows = [
        ("batch", document["batch"]),
        ("from", document["from"]),
        ("match", document["matched"]),
        *((f"passed over: {why}", n) for why, n in document["passed_over"].items()),
        ("to do", document["due"]),
        *((f"to do, {state} now", n) for state, n in document["due_by_state"].items()),
        ("to do, images purged", document["due_purged"]),
    ]
    cost = document["cost"]
    if cost is not None:
        rows.append((
            "would take",
            (
                f"about {cost['estimated_s']:.0f} s for {cost['workers']} analysis "
                f"process(es), at {cost['median_ms']:.0f} ms a case, behind live work"
            ),
        ))  # fmt: skip
    print_table("Reprocessing", ("", ""), rows, err=err)


def _refetch(site: Site, purged: Sequence[Candidate], plan: Plan) -> dict[str, int]:
    """Get the images of purged studies again; their arrival takes the studies up.

    Raises:
        SettingsError: No archive is configured.
    """
    if site.settings.query is None:
        raise SettingsError("set SENTINODE_QUERY: the archive to get images from")
    uids = [one.study_uid for one in purged]
    moved = get_studies(site, site.settings.query, uids, by_get=False) if uids else {}
    with site.writing.begin() as session:
        for uid, counts in moved.items():
            if not counts["failed"]:
                reprocessing.note(session, uid, plan, now())
    failed = sum(counts["failed"] for counts in moved.values())
    return {"studies": len(moved), "objects_failed": failed}


def _take_up(site: Site, due: Sequence[Candidate], plan: Plan) -> tuple[int, int]:
    """Take studies up, a few at a time; count those that moved on meanwhile."""
    taken = refused = 0
    # where rules say what goes where, what went out before tells
    more = () if site.settings.routing else site.settings.destinations
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Queueing", total=len(due))
        for chunk in _chunks(due):
            done = []
            with site.writing.begin() as session:
                for one in chunk:
                    by_whom = (operator(), now())
                    try:
                        reprocessing.take_up(
                            session,
                            one.study_uid,
                            plan,
                            more,
                            by_whom,
                        )
                        done.append(one.study_uid)
                    except StateError:
                        refused += 1
                    progress.advance(bar)
                said = f"from {plan.start}, batch {plan.batch}"
                signed.studies(session, site, "studies reprocess", done, said)
            taken += len(done)
    return taken, refused


def _chunks(due: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
    for start in range(0, len(due), CHUNK):
        yield due[start : start + CHUNK]


def _follow(site: Site, plan: Plan, total: int) -> dict[str, int]:
    """Show progress until nothing of the batch waits; Ctrl-C ends only the showing."""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("Analysing", total=total)
        while True:
            with site.reading() as session:
                states = reprocessing.standing(session, plan.batch)
            waiting = sum(states.get(state, 0) for state in reprocessing.WAITING)
            progress.update(bar, completed=total - waiting)
            if not waiting:
                return {state.value: count for state, count in states.items()}
            time.sleep(POLL_S)


def _print_done(
    document: dict[str, Any], uids: Sequence[str], *, as_json: bool
) -> None:
    if as_json:
        done = "queued for reprocessing"
        named = [{"study_uid": uid, "done": done} for uid in uids]
        print_json(named if uids and "states" not in document else document)
        return
    if uids:
        click.echo("\n".join(f"{uid} queued for reprocessing" for uid in uids))
    else:
        click.echo(
            f"batch {document['batch']}: {document['taken_up']} taken up; "
            f"{document['moved_on_meanwhile']} had moved on meanwhile"
        )
    for state, count in document.get("states", {}).items():
        click.echo(f"{state}: {count}")
