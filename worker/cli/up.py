"""`sentinode up`: broker, listener and workers in one process tree."""

import json
import logging
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import click

from dicom_node import audit, db, logs, schema
from dicom_node.audit import Kind
from dicom_node.errors import SettingsError
from dicom_node.settings import UP_FILE, local_host
from worker import models, outcomes, standalone
from worker.cli.context import operator, read_settings
from worker.cli.models import put_into_service
from worker.settings import DEFAULT_HTTP_PORT, WorkerSettings, cache_dir

log = logging.getLogger(__name__)

PORT_TIMEOUT_S: Final = 10.0
POLL_S: Final = 0.5


@click.command("up")
@click.option("--data-dir", required=True, help="Folder that holds everything.")
@click.option("--port", type=int, help="Port of the listener [11112]; 0: a free one.")
@click.option("--host", help="Address to listen on [0.0.0.0].")
@click.option(
    "--pacs",
    multiple=True,
    metavar="[tls:]AET@HOST:PORT",
    help="Where results go; repeat.",
)
@click.option(
    "--query",
    metavar="[tls:]AET@HOST:PORT",
    help="The archive's query AE, whose counts must agree with ours.",
)
@click.option("--stow", multiple=True, metavar="URL", help="STOW-RS service; repeat.")
@click.option(
    "--commit", multiple=True, metavar="AET", help="Ask it to commit; repeat, or all."
)
@click.option("--quiet-period", type=float, help="Seconds without an instance [120].")
@click.option("--workers", type=int, help="Analysis processes [1].")
@click.option("--hl7-port", type=int, help="Port for pathology results, HL7 [off].")
@click.option("--http-port", type=int, help="Port of the status page [11180]; 0: none.")
@click.option("--aet", help="Our AE title [SENTINODE].")
@click.option(
    "--allow",
    multiple=True,
    metavar="AET[@CIDR[#CERTIFICATE]]",
    help="Who may send; repeat. Default: the AE of --pacs, from its host.",
)
def command(data_dir: str, **others: object) -> None:
    """Run broker, database, listener and workers until SIGTERM.

    Prints one line `ready PORT` when C-ECHO is answered and a worker is up. Started
    again on the same folder, it picks up where it was, with the options that it was
    given before.

    Example: sentinode up --data-dir /var/lib/sentinode --pacs ORTHANC@pacs:4242
    """
    flags = _as_text(others)
    flags["data_dir"] = str(Path(data_dir).expanduser().absolute())
    if flags.get("port") == "0":
        flags["port"] = str(_free_port())
    settings = read_settings(**flags)
    logs.configure(style=settings.log_format)
    with standalone.exclusive(settings.data_dir):
        _demand_free(settings.host, settings.port)
        if settings.takes_tls:
            _demand_free(settings.host, settings.tls_port)
        if settings.hl7_port is not None:
            _demand_free(settings.hl7_host, settings.hl7_port)
        if settings.http_port:
            _demand_free(settings.http_host, settings.http_port)
        _remember(settings.data_dir / UP_FILE, flags)
        schema.upgrade(settings.database)
        _offer_demo_models(settings)
        if settings.database_url is None:
            flags["heir_of_all"] = "true"  # the database is ours, so is its listener
        if settings.http_port is None:
            flags["http_port"] = str(_some_port(DEFAULT_HTTP_PORT))
            settings = settings.model_copy(
                update={"http_port": int(flags["http_port"])}
            )
        if settings.http_port:
            address = f"{local_host(settings.http_host)}:{settings.http_port}"
            click.echo(f"status page: http://{address}/", err=True)
        with on_record(settings):
            standalone.run(settings, flags, lambda port: click.echo(f"ready {port}"))


@contextmanager
def on_record(settings: WorkerSettings) -> Iterator[None]:
    """Enter start and stop in the audit trail; that a stop is lacking shows a kill."""
    _enter(settings, Kind.START, "application start")
    try:
        yield
    finally:
        _enter(settings, Kind.STOP, "application stop")


def _enter(settings: WorkerSettings, kind: Kind, what: str) -> None:
    engine = db.connect(settings.database)
    audit.activity(db.writing(engine), settings, (kind, what), operator())
    engine.dispose()


def _as_text(options: Mapping[str, object]) -> dict[str, str]:
    """Write what was given as settings are written; repeated options by commas."""
    return {
        name: ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in options.items()
        if value not in {None, ()}
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _some_port(wanted: int) -> int:
    """Return a port of this host: the wanted one, or if it is taken a free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("127.0.0.1", wanted))
            return wanted
    return _free_port()


def _demand_free(host: str, port: int) -> None:
    """Make sure that nobody listens where the listener will.

    The listener of a tree that was killed needs a moment to let go.

    Raises:
        SettingsError: The port is taken, or the address is not this host's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + PORT_TIMEOUT_S
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if time.monotonic() > deadline:
                    raise SettingsError(
                        f"cannot listen on {host} port {port} ({error.strerror}): "
                        "choose another --port or --host, --hl7-port or --http-port, "
                        "or SENTINODE_TLS_PORT"
                    ) from error
            else:
                return
        time.sleep(POLL_S)


def _remember(path: Path, flags: Mapping[str, str]) -> None:
    """Keep the flags for the other commands and for the next start.

    Both may be given --data-dir alone; what was said before and not again stays.
    """
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept = before | {name: flags[name] for name in flags if name != "data_dir"}
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(kept, indent=2), encoding="utf-8")
    draft.replace(path)


def _offer_demo_models(settings: WorkerSettings) -> None:
    """Start an installation without any model with the demo's, and say so loudly."""
    engine = db.connect(settings.database)
    try:
        with db.reading(engine)() as session:
            if outcomes.activations(session):
                return
        found = models.installed(cache_dir() / "demo-models")
        for manifest in {model.stage: model for model in found}.values():
            source = models.folder(
                cache_dir() / "demo-models", manifest.name, manifest.version
            )
            put_into_service(
                engine,
                audit.trail_of(settings),
                models.install(source, settings.models),
                "sentinode up",
            )
    finally:
        engine.dispose()
    if found:
        click.echo(
            "No model was active: the demo models serve now. They learned from "
            "synthetic phantoms, their numbers mean nothing for patients.",
            err=True,
        )
    else:
        click.echo(
            "No model is active: studies will be held with reason no_model. Run "
            "`sentinode models install` and `activate`, or `make demo` once.",
            err=True,
        )
