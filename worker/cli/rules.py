"""`sentinode rules`: try a file of routing rules before it counts."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from pydicom import Dataset

from dicom_node import images, kept, ledger, media, routing
from dicom_node.completion import IMAGES
from dicom_node.errors import UnreadableObjectError
from dicom_node.part10 import read_meta
from dicom_node.routing import Routing, RoutingRules
from dicom_node.study import StudyUid
from worker import keeping
from worker import rules as site_rules
from worker.cli.context import Site, limit_option, site_options
from worker.cli.printing import json_option, print_json, print_table

LIMIT: Final = 50


@dataclass(frozen=True, slots=True)
class Tried:
    """A study that rules were tried on; `series` is how many headers were read."""

    study_uid: str
    calling_ae: str
    series: int
    routed: Routing


@click.group("rules")
def command() -> None:
    """Which studies are taken, on which phase, to which destinations."""


@command.command("test")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument(
    "paths", nargs=-1, type=click.Path(exists=True, path_type=Path), metavar="[PATH]..."
)
@click.option("--study", "uids", multiple=True, metavar="UID", help="A study here.")
@click.option("--aet", default="", help="Sender to assume for files at PATH.")
@limit_option(LIMIT, "Newest studies here.")
@json_option
@site_options
def test(  # noqa: PLR0913, PLR0917 - one argument for each option
    site: Site,
    file: Path,
    paths: Sequence[Path],
    uids: Sequence[str],
    aet: str,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """Check a file of rules and say what it makes of studies; nothing is changed.

    Tried on the files at PATH, on the studies named, or on the newest ones here. Set
    SENTINODE_ROUTING to the file to let it count.

    Example: sentinode rules test rules.toml /data/new-scanner
    """
    rules = routing.parse(file)
    tried = _files(rules, paths, aet) if paths else _stored(site, rules, uids, limit)
    found = list(tried)
    if as_json:
        print_json([_as_document(one) for one in found])
        return
    count = len(rules.rule)
    click.echo(f"{file}: {count} rules, unmatched studies are {rules.others}")
    columns = ("study", "sender", "series", "rule", "becomes")
    rows = [
        (t.study_uid, t.calling_ae, t.series, t.routed.rule, _said(t)) for t in found
    ]
    print_table("Studies", columns, rows)


def _said(one: Tried) -> str:
    routed = one.routed
    if routed.ignored is not None:
        return f"ignored: {routed.ignored}"
    parts = ["taken"]
    parts += [f"phase {routed.phase}"] if routed.phase else []
    if routed.destinations is not None:
        parts.append(f"to {', '.join(map(str, routed.destinations)) or 'nobody'}")
    return ", ".join(parts)


def _stored(
    site: Site, rules: RoutingRules, uids: Sequence[str], limit: int
) -> Iterator[Tried]:
    spool = site.spool
    with site.reading() as session:
        if uids:
            records = [ledger.study(session, StudyUid(uid)) for uid in uids]
        else:
            records = ledger.studies(session, limit=limit)
        for record in records:
            slices = (
                kept.slice_path(one.slice_sha256)
                for one in keeping.of_study(session, record.study_uid).values()
            )
            headers = site_rules.headers(
                (
                    one
                    for one in ledger.instances(session, record.study_uid)
                    if spool.written_at(one.path) is not None
                ),
                lambda one: spool.fetch(one.path, one.sha256),
                (spool.fetch(one) for one in slices if spool.written_at(one)),
            )
            routed = routing.route(rules, record.calling_ae, headers)
            yield Tried(record.study_uid, record.calling_ae, len(headers), routed)


def _files(rules: RoutingRules, paths: Sequence[Path], aet: str) -> Iterator[Tried]:
    studies: dict[str, dict[str, Dataset]] = defaultdict(dict)
    for path in media.find(paths):
        header = _image_header(path)
        if header is not None:
            series = studies[str(header.get("StudyInstanceUID"))]
            series.setdefault(str(header.get("SeriesInstanceUID")), header)
    for uid, series in studies.items():
        routed = routing.route(rules, aet, list(series.values()))
        yield Tried(uid, aet, len(series), routed)


def _image_header(path: Path) -> Dataset | None:
    try:
        with path.open("rb") as stream:
            if read_meta(stream).sop_class_uid not in IMAGES:
                return None
        return images.read_header(path)
    except (OSError, UnreadableObjectError):
        return None


def _as_document(one: Tried) -> dict[str, Any]:
    routed = one.routed
    return {
        "study_uid": one.study_uid,
        "calling_ae": one.calling_ae,
        "series": one.series,
        "rule": routed.rule,
        "ignored": routed.ignored,
        "phase": routed.phase,
        "destinations": None
        if routed.destinations is None
        else [str(destination) for destination in routed.destinations],
    }
