"""Is enough of a study here? Its own headers may say so, the archive's counts must.

Both run beside the sweep, so that neither a long header nor an archive that does not
answer keeps other studies waiting. A message that is lost costs time, nothing else.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from celery import current_app, shared_task

from dicom_node import audit, ledger, pauses, retrieve, selection
from dicom_node.audit import Action, Event
from dicom_node.db import Sessions, now
from dicom_node.errors import NodeError, SettingsError
from dicom_node.retrieve import Archive, Holding
from dicom_node.spool import Spool
from dicom_node.study import Peer, StudyState, StudyUid
from dicom_node.tables import Pausable
from worker import app as messages
from worker import models, outcomes, queues, runtime
from worker.marked import read_marked
from worker.rules import RulesUnusableError, route, site_rules
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

COUNTING_S: Final = 60.0
"""How long one message counts studies; what is left is asked for by a later one."""


WHAT_TO_DO: Final = (
    "Route them to us, and it goes on by itself; or take it as it is with "
    "`sentinode studies requeue --accept-incomplete UID`."
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process works: database, files, settings."""

    sessions: Sessions
    spool: Spool
    settings: WorkerSettings


def examine(uid: StudyUid, place: Place) -> bool:
    """End the wait for a study whose rectangle and phases are there.

    Returns:
        Whether the study was queued. Not when it changed meanwhile, when no model is
        active, or when the archive, where it is asked, has more or does not answer.
    """
    with place.sessions() as session:
        study = ledger.study(session, uid)
    if study.state is not StudyState.RECEIVING or not _is_ready(uid, place):
        return False
    if place.settings.query is not None and not _is_counted(uid, place):
        return False
    with place.sessions.begin() as session:
        done = ledger.complete_early(session, uid, study.revision, now())
        if done and place.settings.query is not None:
            ledger.count_agreed(session, uid, study.instances)
    return done


def _is_ready(uid: StudyUid, place: Place) -> bool:
    with place.sessions() as session:
        active = outcomes.activations(session)
        stored = ledger.instances(session, uid)
        stored += [one.stored for one in ledger.foreign_documents(session, uid)]
        manual = ledger.manual_rois(session, uid)
        calling_ae = ledger.study(session, uid).calling_ae
    try:
        phase = models.phase_in_service(place.settings.models, active)
    except SettingsError:
        return False
    files = [
        replace(one, path=place.spool.fetch(one.path, one.sha256)) for one in stored
    ]
    try:
        routed = route(place.settings, calling_ae, files)
    except RulesUnusableError:
        return False
    rules = site_rules(place.settings, routed)
    objects, reading = read_marked(files, manual, rules)
    return not objects.unreadable and selection.is_ready(objects, reading, phase, rules)


def _is_counted(uid: StudyUid, place: Place) -> bool:
    """Say whether the archive has no more; without an answer the wait goes on."""
    settings = place.settings
    if settings.query is None:
        return True
    with place.sessions() as session:
        stored = ledger.instances(session, uid)
    timeout = settings.query_timeout.total_seconds()
    try:
        with retrieve.querying(settings.query, settings.caller, timeout) as archive:
            agree = retrieve.count(archive, uid, Holding.of(stored)).agree
    except NodeError:
        return False
    _sign(place, [uid], settings.query)
    return agree


def count(uids: Sequence[StudyUid], place: Place) -> None:
    """Ask the archive for its counts of queued studies, and let them go or hold them.

    One association for all of them: an archive that does not answer is waited for
    once, and each of the studies has then been asked for in vain.
    """
    settings = place.settings
    if settings.query is None:
        return
    until = time.monotonic() + COUNTING_S
    timeout = settings.query_timeout.total_seconds()
    waiting = list(uids)
    try:
        with retrieve.querying(settings.query, settings.caller, timeout) as archive:
            while waiting and time.monotonic() < until:
                _count_one(waiting[0], place, archive)
                del waiting[0]
    except NodeError as error:
        for uid in waiting:
            _enter_unanswered(uid, place.sessions, error)
    _sign(place, [uid for uid in uids if uid not in waiting], settings.query)


def _sign(place: Place, uids: Sequence[StudyUid], archive: Peer) -> None:
    """Enter which studies an archive was asked about."""
    asked = (
        Event(
            audit.Code.QUERY,
            Action.EXECUTE,
            "archive counted",
            "sentinode",
            study=uid,
            peer=str(archive),
        )
        for uid in uids
    )
    with place.sessions.begin() as session:
        audit.record(session, audit.trail_of(place.settings), *asked)


def _count_one(uid: StudyUid, place: Place, archive: Archive) -> None:
    with place.sessions() as session:
        study = ledger.study(session, uid)
        stored = ledger.instances(session, uid)
    counts = retrieve.count(archive, uid, Holding.of(stored))
    with place.sessions.begin() as session:
        if counts.agree:
            ledger.count_agreed(session, uid, study.instances)
        else:
            detail = f"{counts} {WHAT_TO_DO}"
            ledger.count_differed(session, uid, study.instances, detail, now())
    extra = {"study_uid": uid, "here": counts.here, "agree": counts.agree}
    log.info("study counted", extra=extra)


def _enter_unanswered(uid: StudyUid, sessions: Sessions, error: NodeError) -> None:
    with sessions.begin() as session:
        pause = ledger.count_unanswered(session, uid, str(error), now())
    extra = {"study_uid": uid, "error": type(error).__name__, "again": pause}
    log.warning("archive did not tell its counts", extra=extra)


def _place() -> Place:
    return Place(runtime.sessions(), runtime.spool(), runtime.settings())


@shared_task(name=queues.EXAMINE, ignore_result=True)
def examine_study(study_uid: str) -> None:
    """Run `examine` with this process's database and spool."""
    place, uid = _place(), StudyUid(study_uid)
    if examine(uid, place):
        _announce(uid, place)


@shared_task(name=queues.COUNT, ignore_result=True)
def count_studies(study_uids: list[str]) -> None:
    """Run `count` with this process's database; a sweep announces what agreed."""
    count([StudyUid(uid) for uid in study_uids], _place())


def _announce(uid: StudyUid, place: Place) -> None:
    """Wake analysis up for a live study; a sweep repeats what is lost here."""
    with place.sessions() as session:
        if Pausable.ANALYSIS in pauses.paused(session):
            return
    if messages.announce_study(current_app, uid):
        with place.sessions.begin() as session:
            ledger.announced(session, [uid], now())
