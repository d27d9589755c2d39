"""`sentinode selftest`: a synthetic study through the live system, then out of it."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from pydicom import Dataset
from rich.console import Console

from dicom_node import ledger, media, outbox, retrieve, sender
from dicom_node.admission import Admission
from dicom_node.db import now
from dicom_node.errors import NodeError, PermanentError, StateError
from dicom_node.ledger import StudyRecord
from dicom_node.outbox import DeliveryRecord, DeliveryState
from dicom_node.retrieve import find
from dicom_node.sender import Handling
from dicom_node.study import Peer, Reason, StudyState, StudyUid
from dicom_node.tls import Caller
from worker import erasure, outcomes
from worker.cli.context import Site, operator, site_options
from worker.cli.importing import way_in
from worker.cli.printing import json_option, print_json, print_table
from worker.specimen import PATIENT_ID, specimen

POLL_S: Final = 0.25
SENT: Final = frozenset({DeliveryState.SENT, DeliveryState.COMMITTED})
ENDED: Final = SENT | {DeliveryState.FAILED, DeliveryState.CANCELLED}
MOVING: Final = frozenset(
    {StudyState.RECEIVING, StudyState.QUEUED, StudyState.ANALYZING}
)
RESEARCH: Final = "RESEARCH USE ONLY, not a diagnosis"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the test; `ms` is how long it took."""

    name: str
    ok: bool
    detail: str
    ms: float


@dataclass(slots=True)
class Run:
    """A test under way: the study, until when to wait, and what was found so far."""

    site: Site
    uid: StudyUid
    until: float
    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; what it appends is its detail, what it raises fails it."""
        said: list[str] = []
        started = time.perf_counter()
        ok = False
        try:
            yield said
            ok = True
        except NodeError as error:
            said.append(str(error))
            raise
        finally:
            elapsed = (time.perf_counter() - started) * 1000
            self.steps.append(Step(name, ok, "; ".join(said), round(elapsed, 1)))

    def wait(self, look: Callable[[], Any], what: str) -> Any:  # noqa: ANN401 - what `look` finds
        """Look until something is found.

        Raises:
            StateError: The time is up.
        """
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > self.until:
                raise StateError(f"{what} took too long: see `sentinode doctor`")
            time.sleep(POLL_S)

    def study(self) -> StudyRecord:
        """Return the study as it stands now."""
        with self.site.reading() as session:
            return ledger.study(session, self.uid)

    def deliveries(self) -> list[DeliveryRecord]:
        """Return where its documents are."""
        with self.site.reading() as session:
            return outbox.deliveries(session, study_uid=self.uid)


@click.command("selftest")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds in all.")
@click.option("--keep", is_flag=True, help="Leave the study here, to look at it.")
@json_option
@site_options
def command(site: Site, timeout: float, *, keep: bool, as_json: bool) -> None:
    """Send a synthetic study through the live system and take it out again.

    It goes through listener, queue, analysis and delivery, to the real PACS. There its
    reports stay, under patient ID SENTINODE-SELFTEST: a PACS administrator removes
    them, nobody else can. Exit code 1 when a step fails; the study is taken out all the
    same.

    Example: sentinode selftest --json
    """
    objects = specimen(now())
    run = Run(site, StudyUid(objects[0].StudyInstanceUID), time.monotonic() + timeout)
    failed = False
    try:
        _through(run, objects)
    except NodeError:
        failed = True
    finally:
        if not keep:
            failed |= not _take_out(run)
    _print(run, failed=failed, as_json=as_json)
    if failed:
        raise PermanentError("the self test failed; see above")


def _through(run: Run, objects: list[Dataset]) -> None:
    with run.step("receive") as said:
        said.append(_receive(run.site, objects))
        with run.site.writing.begin() as session, suppress(StateError):
            ledger.complete(session, run.uid, now())
    with run.step("analyse") as said:
        said.append(_analysed(run))
    if not run.site.settings.destinations:
        return
    with run.step("deliver") as said:
        said.append(_delivered(run))
    if run.site.settings.query is not None:
        with run.step("find at the archive") as said:
            said.append(_found(run, run.site.settings.query))


def _receive(site: Site, objects: list[Dataset]) -> str:
    """Store the objects by C-STORE where a sender on this host is admitted."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, one in enumerate(objects):
            path = Path(folder) / f"{number}.dcm"
            one.save_as(path, enforce_file_format=True)
            files.append(path)
        listener = _listener(site)
        calling_ae = _admitted(site)
        if listener is not None and calling_ae is not None:
            us = Caller(calling_ae, site.settings.tls, itself=True)
            handling = Handling(native=site.settings.native_store)
            sent = list(sender.send(listener, us, files, handling=handling))
            refused = [one.error for one in sent if one.error is not None]
            if not refused:
                return f"{len(sent)} objects by C-STORE to {listener} as {calling_ae}"
            raise StateError(f"the listener refused {len(refused)}: {refused[0]}")
        with way_in(site, PATIENT_ID[:16]) as deposit:
            for path in files:
                deposit.put(media.read(path, PATIENT_ID[:16]))
    return (
        f"{len(objects)} objects without the network: no sender on this host is "
        "admitted, so the listener was not tried"
    )


def _listener(site: Site) -> Peer | None:
    peer = site.settings.way_to_store
    return peer if peer.port else None


def _admitted(site: Site) -> str | None:
    """Return an AE title that may store from this host, None when none may."""
    settings = site.settings
    admission = Admission.of(settings)
    titles = [one.ae_title for one in settings.allow]
    titles += [one.ae_title for one in settings.pacs]
    admitted = (one for one in titles if one and admission.admits(one, "127.0.0.1"))
    return next(admitted, None)


def _analysed(run: Run) -> str:
    """Wait for the result; what the quality gate holds of it is let pass."""
    waived = False
    while True:
        record = run.wait(_if_settled(run), "the analysis")
        if record.state is StudyState.ANALYZED:
            break
        if record.reason is not Reason.QUALITY or waived:
            raise StateError(f"{record.state}: {record.reason}: {record.detail}")
        with run.site.writing.begin() as session:
            ledger.accept(session, run.uid, {Reason.QUALITY}, operator(), now())
        waived = True
    with run.site.reading() as session:
        results = outcomes.results(session, run.uid)
    if not results:
        raise StateError("the study is analysed, and there is no result")
    sln = results[0].stages[0]
    said = (
        f"SLN probability {sln.probability:.4f}, threshold {sln.threshold:.4f}, "
        f"{sln.model} ({RESEARCH})"
    )
    return f"{said}; the quality gate had held it" if waived else said


def _if_settled(run: Run) -> Callable[[], StudyRecord | None]:
    def look() -> StudyRecord | None:
        record = run.study()
        return None if record.state in MOVING else record

    return look


def _delivered(run: Run) -> str:
    def look() -> list[DeliveryRecord] | None:
        found = run.deliveries()
        return found if found and all(one.state in ENDED for one in found) else None

    found = run.wait(look, "the delivery")
    lost = [one for one in found if one.state not in SENT]
    if lost:
        one = lost[0]
        raise StateError(f"{one.destination}: {one.state}: {one.last_error}")
    kinds = sorted({f"{one.kind} to {one.destination}" for one in found})
    return ", ".join(kinds)


def _found(run: Run, archive: Peer) -> str:
    """Look for the report at the archive that is queried, if it gets reports."""
    settings = run.site.settings
    timeout = settings.query_timeout.total_seconds()
    reports = {one.sop_instance_uid for one in run.deliveries() if one.kind == "SR"}
    keys = {
        "StudyInstanceUID": run.uid,
        "SeriesInstanceUID": "",
        "Modality": "",
    }
    with retrieve.querying(archive, settings.caller, timeout) as opened:
        series = [
            str(one.SeriesInstanceUID)
            for one in find(opened, "SERIES", **keys)
            if one.get("Modality") in {"SR", "", None}
        ]
        seen = {
            str(one.SOPInstanceUID)
            for uid in series
            for one in find(
                opened,
                "IMAGE",
                StudyInstanceUID=run.uid,
                SeriesInstanceUID=uid,
                SOPInstanceUID="",
            )
        }
    if not reports & seen:
        raise StateError(f"{archive} does not list the report that was sent")
    return f"{archive} lists the report"


def _take_out(run: Run) -> bool:
    """Take the study out of the installation; say whether that went well."""
    with suppress(NodeError):
        with run.step("take out") as said:
            site = run.site
            found = erasure.erase(
                site.writing, site.spool, run.uid, site.trail, operator()
            )
            said.append(f"{found.rows} rows, {found.files} files")
        return True
    return False


def _print(run: Run, *, failed: bool, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "ok": not failed,
                "study_uid": run.uid,
                "steps": [asdict(one) for one in run.steps],
                "research_use_only": True,
            }
        )
        return
    rows = [
        (one.name, "ok" if one.ok else "FAILED", one.detail, f"{one.ms:.0f} ms")
        for one in run.steps
    ]
    print_table(f"Self test - {RESEARCH}", ("step", "", "detail", ""), rows)
    if any(one.name == "deliver" for one in run.steps):
        Console(stderr=True).print(
            f"The PACS keeps the reports of study {run.uid}, patient ID {PATIENT_ID}."
        )
