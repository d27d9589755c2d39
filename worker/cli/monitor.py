"""`sentinode monitor`: status page, metrics and health over HTTP; notifications."""

import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Final

import click
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import SQLAlchemyError

from dicom_node import logs
from dicom_node.db import now
from dicom_node.errors import SettingsError
from worker.cli import doctor
from worker.cli.context import Site, site_options
from worker.metrics import families
from worker.metrics.counts import Names
from worker.metrics.scraper import Scraper
from worker.monitor import page, readiness, status, watch
from worker.monitor.readiness import Probe, Readiness
from worker.monitor.server import Answer, Guard, Page, Server
from worker.monitor.status import Day
from worker.monitor.watch import Sources, Watch
from worker.settings import DEFAULT_HTTP_PORT

SIGNAL_POLL_S: Final = 0.25


@click.command("monitor")
@click.option("--http-port", type=int, help=f"Port [{DEFAULT_HTTP_PORT}].")
@site_options
def command(site: Site, *, http_port: int | None) -> None:
    """Serve the status page, /metrics, /healthz and /readyz until SIGTERM.

    Posts faults to SENTINODE_WEBHOOK_URL, where that is set. Changes nothing in the
    installation. `sentinode up` runs this too.

    Example: sentinode monitor --data-dir /var/lib/sentinode
    """
    settings = site.settings
    logs.configure(style=settings.log_format)
    port = http_port or settings.http_port or DEFAULT_HTTP_PORT
    guard = Guard(settings.http_token_file)
    guard.token()  # a file that cannot be read is told now
    sources = Sources(
        Scraper(settings, site.engine), Readiness(probes(site)), site.reading
    )
    try:
        server = Server((settings.http_host, port), pages(site, sources), guard)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.http_host} port {port} ({error.strerror}): "
            "set SENTINODE_HTTP_PORT or SENTINODE_HTTP_HOST"
        ) from error
    stop: Callable[[], None] | None = None
    if settings.webhook_url is not None:
        stop = watch.start(Watch(settings, sources))
    _serve(server)
    if stop is not None:
        stop()


def probes(site: Site) -> list[Probe]:
    """Return what `/readyz` looks at: the checks of `doctor` that are of this host."""
    return [
        Probe(partial(doctor.run, name, look, site), good_for)
        for name, look, good_for in doctor.READINESS
    ]


def pages(site: Site, sources: Sources) -> Mapping[str, Page]:
    """Return what is served."""

    def metrics(full: bool) -> Answer:  # noqa: FBT001 - as pages are asked
        del full
        text = families.exposition(sources.scraper.view())
        return Answer(HTTPStatus.OK, text, CONTENT_TYPE_LATEST)

    def home(full: bool) -> Answer:  # noqa: FBT001 - as above
        del full
        shown = page.Status(
            now(),
            sources.scraper.view(),
            sources.readiness.checks(),
            _day(site, sources),
        )
        return page.answer(shown)

    return {
        "/": Page(home),
        "/metrics": Page(metrics),
        "/healthz": Page(readiness.alive, is_open=True),
        "/readyz": Page(sources.readiness.answer, is_open=True),
    }


def _day(site: Site, sources: Sources) -> Day | None:
    with suppress(SQLAlchemyError), sources.sessions() as session:
        return status.look(session, Names.of(site.settings), now())
    return None


def _serve(server: Server) -> None:
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    while not stopping.wait(SIGNAL_POLL_S) and thread.is_alive():
        pass
    server.shutdown()
    server.server_close()
