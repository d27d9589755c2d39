"""`sentinode doctor`: check everything that Sentinode depends on."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Final

import click
from celery import Celery
from rich.progress import track
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import pauses, retrieve, revisions, routing, sender, stow
from dicom_node.db import now
from dicom_node.destination import WebService
from dicom_node.errors import NodeError
from dicom_node.findings import Stage
from dicom_node.settings import ignored, local_host
from dicom_node.study import Peer
from worker import credentials, keeping, models, outcomes, relay
from worker.app import answering, reach
from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json, print_table
from worker.manifest import describe_gate, read
from worker.monitor.readiness import FRESH_S, Check

GIB: Final = 2**30
TIMEOUT_S: Final = 5
DIGEST_GOOD_FOR_S: Final = 600.0
MAX_CLOCK_SKEW: Final = timedelta(seconds=5)


def _settings(site: Site) -> str:
    """Look for variables that do nothing; one that is like a setting was misspelt."""
    found = ignored(type(site.settings))
    misspelt = [f"{name} (is {other} meant?)" for name, other in found.items() if other]
    if misspelt:
        raise NodeError(f"no setting, does nothing: {', '.join(misspelt)}")
    return f"no setting, does nothing: {', '.join(found)}" if found else "all are known"


def _database(site: Site) -> str:
    url = site.settings.database
    revision = revisions.current(url)
    if not revisions.is_current(url):
        raise NodeError(f"schema is {revision or 'absent'}; run `sentinode db upgrade`")
    return f"{site.engine.dialect.name}, schema {revision}"


def _clock(site: Site) -> str:
    """Compare our clock with the database server's: leases are made of both."""
    started = now()
    with site.engine.connect() as connection:
        if site.engine.dialect.name == "sqlite":
            theirs = connection.execute(text("select strftime('%s', 'now')"))
        else:
            theirs = connection.execute(text("select extract(epoch from now())"))
        skew = timedelta(seconds=float(theirs.scalar_one()) - started.timestamp())
    if abs(skew) > MAX_CLOCK_SKEW:
        raise NodeError(f"differs from the database's by {skew}; set up NTP")
    return f"{started:%Y-%m-%d %H:%M:%SZ}, within {MAX_CLOCK_SKEW.seconds} s of it"


def _broker(site: Site) -> str:
    started = time.perf_counter()
    try:
        with reach(site.settings.broker, TIMEOUT_S) as connection:
            connection.ensure_connection(max_retries=1, timeout=TIMEOUT_S)
    except Exception as error:  # each transport has errors of its own
        raise NodeError(
            "does not answer; is `sentinode up` running, is SENTINODE_BROKER_URL right?"
        ) from error
    return f"answered in {(time.perf_counter() - started) * 1000:.0f} ms"


def _workers(site: Site) -> str:
    app = Celery(broker=site.settings.broker)
    try:
        names = answering(app, timeout=1.0)
    except Exception as error:  # each transport has errors of its own
        raise NodeError("the broker does not answer") from error
    if not any(name.startswith("analysis@") for name in names):
        raise NodeError("no analysis worker answers; start one, see its log")
    return ", ".join(sorted(names))


def _queues(site: Site) -> str:
    with site.reading() as session:
        found = pauses.paused(session)
    if found:
        said = [f"{one.queue} by {one.set_by}: {one.note}" for one in found.values()]
        raise NodeError(f"paused: {'; '.join(said)}. Go on: `sentinode queue resume`")
    return "none is paused"


def _model(site: Site) -> str:
    with site.reading() as session:
        active = outcomes.activations(session)
    for stage in Stage:
        activation = models.in_service(stage, active)
        folder = models.folder(
            site.settings.models, activation.name, activation.version
        )
        models.check_activated(models.verify(folder), activation)
    return ", ".join(f"{one.name}@{one.version}" for one in active.values())


def _routing(path: Path) -> Callable[[Site], str]:
    def check(site: Site) -> str:
        del site
        try:
            found = routing.parse(path)
        except NodeError as error:
            raise NodeError(
                f"{error}: mend the file, until then studies wait"
            ) from error
        return f"{path}: rules {len(found.rule)}, others are {found.others}"

    return check


def _quality(site: Site) -> str:
    """Say what the quality gate checks of the active models; nothing can fail."""
    with site.reading() as session:
        active = outcomes.activations(session)
    said = []
    for stage, one in active.items():
        folder = models.folder(site.settings.models, one.name, one.version)
        said.append(f"{stage}: {'; '.join(describe_gate(read(folder)))}")
    return ". ".join(said) or "no model is active"


def _disk(site: Site) -> str:
    free = site.spool.free_bytes()
    if free < site.settings.min_free_bytes:
        raise NodeError(
            f"{free / GIB:.1f} GiB free, below the mark of "
            f"{site.settings.min_free_bytes / GIB:.1f} GiB: nothing is received"
        )
    if not os.access(site.settings.data_dir, os.W_OK):
        raise NodeError(f"{site.settings.data_dir} cannot be written")
    return f"{free / GIB:.1f} GiB free"


def _store(site: Site) -> str:
    """Ask for an object that is not there: an answer is all that is wanted."""
    site.spool.written_at(Path("doctor"))
    return f"{site.settings.store_url} answers"


def _kept(site: Site) -> str:
    """Look for what stage II and replay will need and nobody released."""
    with site.reading() as session:
        lacking = keeping.missing(session, site.spool)
    if lacking:
        raise NodeError(
            f"crop or slice of {len(lacking)} result(s) is missing, first of "
            f"{lacking[0].result_id}: restore the spool's folder `kept` from a backup, "
            "or send the study again and run `sentinode studies reprocess`"
        )
    return "crop and slice of every result are there"


def _listener(site: Site) -> str:
    peer = site.settings.listener
    return f"{peer} echoed in {sender.echo(peer, site.settings.aet, TIMEOUT_S):.0f} ms"


def _knock(host: str, port: int | None, log: str) -> str:
    try:
        socket.create_connection((local_host(host), port), timeout=TIMEOUT_S).close()
    except OSError as error:
        raise NodeError(
            f"nothing listens on {local_host(host)} port {port}: see logs/{log}"
        ) from error
    return f"listens on {local_host(host)} port {port}"


def _tls(site: Site) -> str:
    return _knock(site.settings.host, site.settings.tls_port, "listener.log")


def _certificates(site: Site) -> str:
    return credentials.check_certificates(site.settings, now())


def _secrets(site: Site) -> str:
    return credentials.check_secrets(site.settings)


def _hl7(site: Site) -> str:
    return _knock(site.settings.hl7_host, site.settings.hl7_port, "hl7.log")


def _collector(site: Site) -> str:
    collector = site.settings.audit_syslog
    if collector is None:
        return "not sent"
    with site.reading() as session:
        found = relay.standing(session, collector)
    if found.failing_since is not None:
        raise NodeError(
            f"{found.error}; {found.waiting} entries wait since "
            f"{found.failing_since:%Y-%m-%d %H:%M:%SZ}, nothing is lost: is it up, do "
            "the certificates match?"
        )
    return f"{collector} has {found.taken} entries, {found.waiting} wait"


def _pacs(peer: Peer) -> Callable[[Site], str]:
    def echo(site: Site) -> str:
        try:
            elapsed = sender.echo(peer, site.settings.caller, TIMEOUT_S)
        except NodeError as error:
            raise NodeError(
                f"{error}: is it up, does it know {site.settings.aet} at this address?"
            ) from error
        return f"{peer} echoed in {elapsed:.0f} ms"

    return echo


def _query(site: Site) -> str:
    peer, aet = site.settings.query, site.settings.aet
    caller = site.settings.caller
    if peer is None:
        return "not asked"
    try:
        with retrieve.querying(peer, caller, TIMEOUT_S):
            return f"{peer} takes queries"
    except NodeError as error:
        raise NodeError(
            f"{error}: is it up, does it let {aet} query? Studies go on without its "
            "counts after some tries"
        ) from error


def _web_service(service: WebService) -> Callable[[Site], str]:
    def ask(site: Site) -> str:
        code = stow.check(service, site.settings.stow_credentials, TIMEOUT_S)
        return f"{service} answered HTTP {code}"

    return ask


def run(name: str, look: Callable[[Site], str], site: Site) -> Check:
    """Look at one thing; what it raises on purpose is what is wrong."""
    try:
        return Check(name, ok=True, detail=look(site))
    except SQLAlchemyError:
        return Check(
            name, ok=False, detail="the database does not answer or has no tables"
        )
    except (NodeError, OSError) as error:
        return Check(name, ok=False, detail=str(error))


READINESS: Final = (
    ("database", _database, FRESH_S),
    ("broker", _broker, FRESH_S),
    ("workers", _workers, FRESH_S),
    ("model digest", _model, DIGEST_GOOD_FOR_S),
    ("disk", _disk, FRESH_S),
    ("listener", _listener, FRESH_S),
)
"""What must work for a study that comes now to be analysed, and how often to look."""


def checks(site: Site) -> Iterator[Check]:
    """Look at one thing after the other; none changes anything."""
    yield run("settings", _settings, site)
    yield run("database", _database, site)
    yield run("clock", _clock, site)
    yield run("broker", _broker, site)
    yield run("workers", _workers, site)
    yield run("queues", _queues, site)
    yield run("model digest", _model, site)
    yield run("quality gate", _quality, site)
    if site.settings.routing is not None:
        yield run("routing rules", _routing(site.settings.routing), site)
    yield run("disk", _disk, site)
    if site.settings.store_url is not None:
        yield run("object store", _store, site)
    yield run("kept files", _kept, site)
    yield run("secret files", _secrets, site)
    if credentials.certificates(site.settings):
        yield run("certificates", _certificates, site)
    yield from _listeners(site)
    yield from _peers(site)
    if not site.settings.destinations:
        yield Check("PACS", ok=False, detail="none configured; set SENTINODE_PACS")


def _listeners(site: Site) -> Iterator[Check]:
    yield run("listener", _listener, site)
    if site.settings.takes_tls:
        yield run("listener, TLS", _tls, site)
    if site.settings.hl7_port is not None:
        yield run("HL7 listener", _hl7, site)
    if site.settings.audit_syslog is not None:
        yield run("audit collector", _collector, site)


def _peers(site: Site) -> Iterator[Check]:
    for peer in site.settings.pacs:
        yield run(f"PACS {peer.ae_title}", _pacs(peer), site)
    if site.settings.query is not None:
        yield run(f"query {site.settings.query.ae_title}", _query, site)
    for service in site.settings.stow:
        yield run(f"STOW-RS {service.host}", _web_service(service), site)


@click.command("doctor")
@json_option
@site_options
def command(site: Site, *, as_json: bool) -> None:
    """Check database, broker, workers, models, disk, clock, listener and PACS.

    Changes nothing. Exit code 1 when a check fails.
    """
    found = list(
        checks(site)
        if as_json
        else track(checks(site), "Checking", transient=True, total=10)
    )
    ok = all(check.ok for check in found)
    if as_json:
        print_json({"ok": ok, "checks": [asdict(check) for check in found]})
    else:
        print_table(
            "Doctor",
            ("check", "", "detail"),
            [(one.name, "ok" if one.ok else "FAILED", one.detail) for one in found],
        )
    if not ok:
        raise SystemExit(1)
