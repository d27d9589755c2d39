"""The status page as HTML: pure, escaped, one document without scripts or links out."""

import hashlib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from http import HTTPStatus
from typing import Final

from dicom_node import __version__, advice
from dicom_node.study import StudyState
from dicom_node.tables import DeliveryState
from worker.metrics.counts import Counts
from worker.metrics.drift import ALL_SCANNERS
from worker.metrics.families import InUse, View
from worker.monitor.html import (
    CLASSES,
    STYLE,
    Cell,
    code,
    how,
    mark,
    section,
    span,
    state_of,
    time_of,
)
from worker.monitor.readiness import Check
from worker.monitor.server import Answer
from worker.monitor.status import Day, StudyLine

REFRESH_S: Final = 30
GIB: Final = 2**30
STUCK: Final = (StudyState.HELD, StudyState.FAILED)
HASH: Final = b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY: Final = (
    f"default-src 'none'; style-src 'sha256-{HASH}'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True, slots=True)
class Status:
    """Everything that the page shows; `day` is None while the database is away."""

    at: datetime
    view: View
    checks: Sequence[Check]
    day: Day | None


def answer(status: Status) -> Answer:
    """Return the page as it is answered."""
    headers = {"Content-Security-Policy": POLICY}
    content = document(status).encode()
    return Answer(HTTPStatus.OK, content, "text/html; charset=utf-8", headers)


def document(status: Status) -> str:
    """Write the page."""
    parts = [_head(status), _checks(status.checks)]
    counts = status.view.counts
    if counts is not None:
        parts += [_paused(counts), _tiles(counts), _stuck(counts), _deliveries(counts)]
    parts += [_models(status.view.models), _places(status.view)]
    if counts is not None:
        parts.append(_drift(counts))
    if status.day is not None:
        parts += [_waits(status.day), _studies(status.day.studies)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="robots" content="noindex">'
        f"<title>Sentinode</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _head(status: Status) -> str:
    bad = [check.name for check in status.checks if not check.ok]
    said = f"not ready: {', '.join(bad)}" if bad else "ready"
    kind = "bad" if bad else "ok"
    return (
        f'<header><h1>Sentinode</h1><span id="ready" class="{kind}">{escape(said)}'
        f"</span><span>{time_of(status.at)}, version {escape(__version__)}</span>"
        "</header>"
        '<p class="use">Research use only: nothing here is a diagnosis.</p>'
    )


def _checks(checks: Sequence[Check]) -> str:
    rows = [
        (one.name, mark("ok" if one.ok else "FAILED", one.ok), one.detail)
        for one in checks
    ]
    return section("ready-checks", "Dependencies", ("check", "", "detail"), rows)


def _paused(counts: Counts) -> str:
    """Say what is paused; who did it and why is for `queue status`, not for a page."""
    names = [name for name, is_paused in counts.paused.items() if is_paused]
    if not names:
        return ""
    todo = how("See `sentinode queue status`; go on: `sentinode queue resume`.")
    return (
        f'<p id="paused"><b class="bad">Paused by a person: {escape(", ".join(names))}.'
        f"</b> {todo}</p>"
    )


def _tiles(counts: Counts) -> str:
    by_state: dict[str, int] = {}
    for (state, _), count in counts.recent.items():
        by_state[state] = by_state.get(state, 0) + count
    tiles = [
        _tile(state, str(n), CLASSES.get(state, "") if n else "")
        for state, n in by_state.items()
    ]
    tiles.append(_tile("oldest in queue", span(counts.queue_age_s)))
    inner = "".join(tiles)
    return (
        '<section id="day"><h2>Studies of the last 24 hours</h2>'
        f'<div class="tiles">{inner}</div></section>'
    )


def _tile(name: str, value: str, kind: str = "") -> str:
    return (
        f'<div class="tile"><b class="{kind}">{escape(value)}</b>{escape(name)}</div>'
    )


def _stuck(counts: Counts) -> str:
    rows: list[tuple[Cell, ...]] = []
    for (state, reason), count in sorted(counts.studies.items()):
        if state in STUCK and reason and count:
            said = advice.of(reason)
            what = code(reason)
            rows.append(
                (state_of(state), what, count, f"{said.means}.", how(said.todo))
            )
    heads = ("state", "reason", "studies", "what it means", "what to do")
    title = "Held and failed, of all time"
    return section("stuck", title, heads, rows, "Nothing is held or failed.")


def _deliveries(counts: Counts) -> str:
    rows: list[tuple[Cell, ...]] = [
        (to, state_of(state) if count else state, count)
        for (state, to), count in sorted(counts.deliveries.items(), key=_by_destination)
        if count or state in {DeliveryState.DUE, DeliveryState.FAILED}
    ]
    age = f" (oldest due for {span(counts.delivery_age_s)})"
    title = f"Deliveries{age if counts.delivery_age_s else ''}"
    return section("deliveries", title, ("destination", "state", "documents"), rows)


def _by_destination(item: tuple[tuple[str, str], int]) -> tuple[str, str]:
    (state, destination), _ = item
    return destination, state


def _models(models: Iterable[InUse]) -> str:
    rows = [
        (
            one.stage,
            code(f"{one.name}@{one.version}"),
            "unknown" if one.threshold is None else f"{one.threshold:.3f}",
            one.threshold_source,
            code(one.weights_sha256[:12]),
        )
        for one in models
    ]
    heads = ("stage", "model", "threshold", "set by", "weights")
    none = "No model is active: studies are held with reason no_model."
    return section("models", "Models in use", heads, rows, none)


def _places(view: View) -> str:
    free = view.free_bytes
    low = free is None or free < view.min_free_bytes
    shown = "unknown" if free is None else f"{free / GIB:.1f} GiB"
    rows: list[tuple[Cell, ...]] = [
        ("free disk", mark(shown, not low)),
        ("nothing is received below", f"{view.min_free_bytes / GIB:.1f} GiB"),
    ]
    if view.spool_bytes is not None:
        rows.append(("images in the spool", f"{view.spool_bytes / GIB:.2f} GiB"))
    rows += [
        (f"messages for {name}", str(n)) for name, n in (view.queues or {}).items()
    ]
    return section("places", "Disk and queues", ("what", ""), rows)


def _drift(counts: Counts) -> str:
    rows: list[tuple[Cell, ...]] = [
        (
            one.stage,
            one.statistic,
            "all" if one.scanner == ALL_SCANNERS else "one scanner",
            f"{one.value:.3f}",
            "" if one.p is None else f"{one.p:.3f}",
            one.n,
            mark("ALARM" if one.alarm else "no", not one.alarm),
        )
        for one in counts.drift
        if one.scanner == ALL_SCANNERS or one.alarm
    ]
    heads = ("stage", "statistic", "scanners", "value", "p", "n", "alarm")
    none = "No report on drift yet."
    return section("drift", "Drift against the training cohort", heads, rows, none)


def _waits(day: Day) -> str:
    rows = [(one.name, span(one.median), span(one.p95), one.n) for one in day.waits]
    heads = ("what", "median", "95% within", "n")
    none = "No result in the last 24 hours."
    return section("latencies", "Latencies of the last 24 hours", heads, rows, none)


def _studies(studies: Sequence[StudyLine]) -> str:
    rows: list[tuple[Cell, ...]] = [
        (
            code(f"…{one.label}"),
            state_of(one.state),
            code(one.reason) if one.reason else "",
            ", ".join(one.pathways),
            one.caller,
            one.instances,
            time_of(one.last_received_at),
        )
        for one in studies
    ]
    heads = ("study", "state", "reason", "cases", "from", "objects", "last object")
    none = "No study in the last 24 hours."
    return section("studies", "Newest studies", heads, rows, none)
