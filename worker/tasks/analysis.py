"""Analysing one study: claim, compute, record; the only task module with torch.

The order of initialisation matters for CUDA: the parent process of the pool only
imports torch; the models are loaded after the fork, by each child on its own device.
"""

import itertools
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

from billiard.process import current_process
from celery import current_app, shared_task
from celery.signals import worker_init, worker_process_init
from sqlalchemy.exc import DBAPIError

from dicom_node import db, ledger, outbox, pauses, purge, references
from dicom_node.db import Sessions, now
from dicom_node.destination import Destination
from dicom_node.errors import (
    InvalidDocumentError,
    LedgerUnavailableError,
    ModelIntegrityError,
    NodeError,
    SettingsError,
    StudyHeldError,
    StudyIgnoredError,
    TransientError,
    UnreadableObjectError,
)
from dicom_node.ledger import Claim
from dicom_node.outbox import DocumentRecord
from dicom_node.report.device import Device
from dicom_node.routing import Routing
from dicom_node.silence import silence
from dicom_node.spool import Spool
from dicom_node.study import (
    Reason,
    SopInstanceUid,
    StoredInstance,
    StudyState,
    StudyUid,
)
from dicom_node.tables import Pausable
from worker import app as messages
from worker import (
    company,
    computation,
    keeping,
    models,
    outcomes,
    pipeline,
    queues,
    retention,
    rules,
    runtime,
)
from worker.case import AnalyzedCase, PriorResult
from worker.outcomes import CaseRecord
from worker.pipeline import Cascade, StudyInput
from worker.retention import Store
from worker.serving import LoadedCascade, choose_device, signing_device
from worker.settings import WorkerSettings
from worker.together import Steps, together

log = logging.getLogger(__name__)

Verdict = tuple[StudyState, Reason | None, str | None]
"""State, reason and sentence that an analysis ends with."""

FAILURES: Final[Mapping[type[NodeError], Reason]] = {
    UnreadableObjectError: Reason.UNREADABLE,
    InvalidDocumentError: Reason.DOCUMENT_INVALID,
}
"""Reason codes of errors that fail a study; any other is `analysis_error`."""

CascadeSource = Callable[[Sessions], Cascade]


@dataclass(frozen=True, slots=True)
class Site:
    """Where this process works: files, settings, the device that signs reports."""

    sessions: Sessions
    spool: Spool
    settings: WorkerSettings
    device: Device


def analyze(uid: StudyUid, site: Site, cascade: CascadeSource) -> tuple[str, ...]:
    """Claim a study, analyse it, and record result and deliveries together.

    A message may be delivered twice: the claim lets one through. While the queue is
    paused none is: the sweep sends it again after that. An instance may
    arrive meanwhile: the claim is then void and this result is dropped. Bulk work
    takes others of its kind along; the claim of each is settled by itself.

    Returns:
        The identifiers of the results that were recorded.

    Raises:
        ModelIntegrityError: The active weights are not what was activated; the study
            is back in the queue and this worker must stop.
    """
    with site.sessions() as session:
        if Pausable.ANALYSIS in pauses.paused(session):
            return ()
    with site.sessions.begin() as session:
        claim = ledger.claim(session, uid, runtime.name(), site.settings.lease, now())
    if claim is None:
        return ()
    unsettled: list[Exception] = []
    with silence():  # once: each reader and writer of objects asks for it
        ended = together(_turns(claim, site, cascade, unsettled))
    if unsettled:  # faulty models stop the worker, so they come first
        faulty = (one for one in unsettled if isinstance(one, ModelIntegrityError))
        raise next(faulty, unsettled[0])
    recorded = (one for one in ended if not isinstance(one, Exception))
    return tuple(itertools.chain.from_iterable(recorded))


def _turns(
    first: Claim, site: Site, cascade: CascadeSource, unsettled: list[Exception]
) -> Iterator[Steps[tuple[str, ...]]]:
    """Yield the analysis of a claim, and of others while each settles its own."""
    others = company.along(first, site.sessions, site.settings, runtime.name())
    for claim in itertools.chain((first,), others):
        yield _noted(_steps(claim, site, cascade), unsettled)
        if unsettled:  # no fault of a study: the next one would meet it, too
            return


def _noted(
    steps: Steps[tuple[str, ...]], unsettled: list[Exception]
) -> Steps[tuple[str, ...]]:
    try:
        return (yield from steps)
    except Exception as error:
        unsettled.append(error)
        raise


def _steps(claim: Claim, site: Site, cascade: CascadeSource) -> Steps[tuple[str, ...]]:
    """Analyse what was claimed and settle the claim, whatever comes of it."""
    try:
        computed = yield from _compute(claim, site, cascade)
        return _record(claim, site, *computed)
    except (TransientError, ModelIntegrityError) as error:
        _give_back(claim, site.sessions, error)
        raise
    except DBAPIError as error:
        _after_database_error(claim, site, error)
    except NodeError as error:
        _conclude(claim, site.sessions, _verdict(error))
    except Exception as error:  # noqa: BLE001 -- the edge of a supervised process
        _after_crash(claim, site, error)
    return ()


def _compute(
    claim: Claim, site: Site, cascade: CascadeSource
) -> Steps[tuple[StudyInput, tuple[AnalyzedCase, ...], Routing]]:
    if claim.contradiction is not None:
        raise StudyHeldError(*claim.contradiction)
    study, routed = _study_input(claim, site)
    if routed.ignored is not None:
        raise StudyIgnoredError(routed.ignored, routed.why)
    _refer(claim, site)
    steps = pipeline.steps(study, cascade(site.sessions), site.device)
    return study, (yield from steps), routed


def _refer(claim: Claim, site: Site) -> None:
    """Remember which images of other studies the documents of this one refer to.

    What a document refers to never changes, so this holds whatever becomes of the
    claim.
    """
    found = references.foreign_references(_absolute(claim.instances, site.spool))
    if found:
        with site.sessions.begin() as session:
            ledger.refer(session, found, now())


def _absolute(
    stored: Sequence[StoredInstance], spool: Spool
) -> tuple[StoredInstance, ...]:
    return tuple(replace(one, path=spool.fetch(one.path, one.sha256)) for one in stored)


def _study_input(claim: Claim, site: Site) -> tuple[StudyInput, Routing]:
    documents = [one.stored for one in claim.foreign]
    stored = _absolute((*claim.instances, *documents), site.spool)
    with site.sessions() as session:
        gone = purge.purged(session, claim.study_uid)
        cases = outcomes.cases(session, claim.study_uid)
        reports = {
            case.newest.result_id: outbox.documents(session, case.newest.result_id)
            for case in cases
        }
        slnd = outcomes.slnd_results(session, claim.study_uid)
    priors = {
        case.laterality: _prior(case, reports[case.newest.result_id], site.spool)
        for case in cases
    }
    study = StudyInput(
        claim.study_uid,
        stored,
        priors,
        slnd,
        stage_two=site.settings.stage_two,
        manual=claim.manual,
        waived=claim.waived,
    )
    if gone is not None:
        store = Store(site.sessions, site.spool)
        study = replace(
            study,
            priors=retention.with_kept_slices(store, cases, priors),
            purged=gone.digests,
            late=gone.late | _foreign_since(claim, gone.at),
        )
    kept = [one.kept.path for one in study.priors.values() if one.kept is not None]
    routed = rules.route(site.settings, claim.calling_ae, stored, kept)
    return replace(study, rules=rules.site_rules(site.settings, routed)), routed


def _foreign_since(claim: Claim, at: datetime) -> frozenset[SopInstanceUid]:
    """Return the documents of other studies that came after a time."""
    return frozenset(
        one.stored.sop_instance_uid for one in claim.foreign if one.received_at > at
    )


def _prior(
    case: CaseRecord, documents: Sequence[DocumentRecord], spool: Spool
) -> PriorResult:
    newest = case.newest
    sln, nsln = newest.stages
    reports = [
        path
        for one in documents
        if one.kind == "SR" and (path := _if_there(spool, one.path)) is not None
    ]
    return PriorResult(
        result_id=newest.result_id,
        version=newest.version,
        input_sha256=newest.input_sha256,
        stale=case.stale,
        sln=sln,
        nsln=nsln,
        slnd=newest.slnd,
        report=reports[0] if reports else None,
        rewrite=case.rewrite,
    )


def _if_there(spool: Spool, document: Path) -> Path | None:
    """Return the file of an earlier report; a lost one is not cited."""
    try:
        path = spool.fetch(document)
    except UnreadableObjectError:
        return None
    return path if path.is_file() else None


def _record(
    claim: Claim,
    site: Site,
    study: StudyInput,
    analyzed: Sequence[AnalyzedCase],
    routed: Routing,
) -> tuple[str, ...]:
    """Freeze the documents, then commit state, results and deliveries as one.

    The compare-and-set goes first: a study that changed meanwhile records nothing.
    An SLND result that came during the analysis queues the study once more.
    """
    frozen = {
        case.finding.result_id: [
            (one, site.spool.write_document(one.sha256, one.content))
            for one in case.documents
        ]
        for case in analyzed
    }
    for case in analyzed:
        keeping.write(site.spool, case.kept)
    with site.sessions.begin() as session:
        detail = _summary(analyzed)
        detail += f" {routed.why}" if routed.rule else ""
        if not ledger.finish(session, claim, StudyState.ANALYZED, now(), detail=detail):
            log.info("result dropped, the study changed meanwhile", extra=_of(claim))
            return ()
        for case in analyzed:
            outcomes.record(session, claim.study_uid, case)
            digests = (case.kept.crop_sha256, case.kept.slice_sha256)
            keeping.record(session, case.finding.result_id, claim.study_uid, digests)
            outbox.enqueue(
                session,
                claim.study_uid,
                case.finding.result_id,
                frozen[case.finding.result_id],
                _destinations(site, routed),
                now(),
            )
        if outcomes.slnd_results(session, claim.study_uid) != study.slnd:
            ledger.requeue(session, claim.study_uid, now(), "an SLND result came")
        elif analyzed and study.late:
            why = "what came after the purge is still to be looked at"
            ledger.requeue(session, claim.study_uid, now(), why)
    log.info("study analyzed", extra=_of(claim) | {"results": len(analyzed)})
    return tuple(frozen)


def _destinations(site: Site, routed: Routing) -> Sequence[Destination]:
    if routed.destinations is not None:
        return routed.destinations
    return site.settings.destinations


def _summary(analyzed: Sequence[AnalyzedCase]) -> str:
    if not analyzed:
        return "the input is unchanged, the earlier result stands"
    return "; ".join(
        f"side {case.finding.selection.laterality}, result version "
        f"{case.finding.version}: see `sentinode results show`"
        for case in analyzed
    )


def _conclude(claim: Claim, sessions: Sessions, verdict: Verdict) -> None:
    with sessions.begin() as session:
        state = ledger.conclude(session, claim, verdict, now())
    extra = {"state": state, "reason": verdict[1]}
    log.warning("study not analyzed", extra=_of(claim) | extra)


def _verdict(error: NodeError) -> Verdict:
    """Turn what stopped an analysis into a state, a reason code and a sentence."""
    if isinstance(error, StudyHeldError):
        return StudyState.HELD, error.reason, error.detail
    if isinstance(error, StudyIgnoredError):
        return StudyState.IGNORED, error.reason, error.detail
    if isinstance(error, SettingsError):
        return StudyState.HELD, Reason.NO_MODEL, str(error)
    reasons = (reason for kind, reason in FAILURES.items() if isinstance(error, kind))
    return StudyState.FAILED, next(reasons, Reason.ANALYSIS_ERROR), str(error)


def _give_back(claim: Claim, sessions: Sessions, error: NodeError) -> None:
    with sessions.begin() as session:
        ledger.give_back(session, claim, now(), str(error), transient=True)
    log.warning("study given back", extra=_of(claim) | {"error": type(error).__name__})


def _after_database_error(claim: Claim, site: Site, error: DBAPIError) -> None:
    """Give a study back that is not to blame; what was asked may be, too.

    Raises:
        LedgerUnavailableError: The database is away, busy or full.
        DBAPIError: It still is: the lease of the claim will end.
    """
    if not db.is_outage(error):
        _after_crash(claim, site, error)
        return
    outage = LedgerUnavailableError("the database was away, busy or full")
    _give_back(claim, site.sessions, outage)
    raise outage from error


def _after_crash(claim: Claim, site: Site, error: Exception) -> None:
    """Try again a few times, then fail; the text of a foreign error may name people."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    detail = f"{type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
    log.error("analysis crashed", extra=_of(claim) | {"error": detail})
    if claim.attempts < site.settings.max_attempts:
        with site.sessions.begin() as session:
            ledger.give_back(session, claim, now(), detail)
    else:
        verdict = (StudyState.FAILED, Reason.ANALYSIS_ERROR, detail)
        _conclude(claim, site.sessions, verdict)


def _of(claim: Claim) -> dict[str, object]:
    return {"study_uid": claim.study_uid, "attempt": claim.attempts}


@cache
def _cascade() -> LoadedCascade:
    """Build this process's cascade; called after the fork only."""
    process = current_process()
    device = choose_device(runtime.settings().device, getattr(process, "index", 0))
    computation.settle(device)
    return LoadedCascade(runtime.settings().models, device)


def _cascade_in_service(sessions: Sessions) -> Cascade:
    """Return the cascade; asked within a claim, so that its faults hold the study."""
    return _cascade()(sessions)


@cache
def _site() -> Site:
    settings = runtime.settings()
    return Site(runtime.sessions(), runtime.spool(), settings, signing_device(settings))


@worker_init.connect
def check_models(**_: object) -> None:
    """Stop before the pool starts when an active model is not what it was.

    Runs in the parent process, which never touches CUDA. A site without models
    starts: its studies are held with `no_model`.

    Raises:
        SystemExit: Weights differ from their manifest or from their activation.
    """
    settings = runtime.settings()
    engine = db.connect(settings.database)
    with db.reading(engine)() as session:
        active = outcomes.activations(session)
    engine.dispose()  # a connection must not cross the fork
    for activation in active.values():
        folder = models.folder(settings.models, activation.name, activation.version)
        try:
            models.check_activated(models.verify(folder), activation)
        except ModelIntegrityError as error:
            log.critical("model refused", extra={"error": str(error)})
            raise SystemExit(1) from error
        except SettingsError as error:
            log.warning("model missing", extra={"error": str(error)})


@worker_process_init.connect
def load_models(**_: object) -> None:
    """Load the active models in a child of the pool, before its first study."""
    try:
        _cascade()(runtime.sessions())
    except SettingsError as error:
        log.warning("no cascade yet", extra={"error": str(error)})
    except ModelIntegrityError as error:
        _stop_worker(error)


def _stop_worker(error: ModelIntegrityError) -> None:
    log.critical("model refused", extra={"error": str(error)})
    os.kill(os.getppid(), signal.SIGTERM)


@shared_task(name=queues.ANALYZE, ignore_result=True)
def analyze_study(study_uid: str) -> None:
    """Run `analyze` with this process's database and models, then wake delivery."""
    try:
        results = analyze(StudyUid(study_uid), _site(), _cascade_in_service)
    except ModelIntegrityError as error:
        _stop_worker(error)
        return
    except TransientError:
        return  # the study is queued again; the sweep re-sends its message
    if results:
        destinations = [str(one) for one in runtime.settings().destinations]
        messages.announce_deliveries(current_app, destinations)
