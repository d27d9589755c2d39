"""A view of an installation as families of Prometheus samples.

Series of every known state and configured name exist from the start, so that an alert
on zero or on a rise works.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dicom_node import __version__, counters
from worker.metrics.counts import Counts
from worker.metrics.drift import ALL_SCANNERS, Drift
from worker.metrics.tally import Distribution, Tally

PREFIX: Final = "sentinode_"
COUNTERS: Final = (
    (counters.ASSOCIATIONS, "Associations by calling AE and outcome", "outcome"),
    (counters.STORES, "C-STORE requests by calling AE and answered status", "status"),
    (counters.STORED_BYTES, "Bytes of data sets that were kept", None),
)

Samples = Iterable[tuple[Sequence[str], float]]


@dataclass(frozen=True, slots=True)
class InUse:
    """The model that serves a stage, and its threshold in effect."""

    stage: str
    name: str
    version: str
    weights_sha256: str
    threshold: float | None
    threshold_source: str


@dataclass(frozen=True, slots=True)
class View:
    """What one look at an installation found.

    `counts` is None while the database does not answer; `queues` are the lengths of
    the broker's queues, None while it does not answer. Bytes are None while unknown,
    `tally` until everything was read once.
    """

    counts: Counts | None
    tally: Tally | None
    models: tuple[InUse, ...]
    queues: Mapping[str, int] | None
    free_bytes: int | None
    min_free_bytes: int
    spool_bytes: int | None
    expiries: Mapping[str, datetime] = field(default_factory=dict)
    seconds: float = 0.0


def exposition(view: View) -> bytes:
    """Write a view in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(view))
    return generate_latest(registry)


class _Collector(Collector):
    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        yield from _process(self._view)
        yield from _places(self._view)
        if self._view.counts is not None:
            yield from _counts(self._view.counts)
            yield from _callers(self._view.counts)
            yield from _drift(self._view.counts.drift)
        if self._view.tally is not None:
            yield from _distributions(self._view.tally)
        yield from _models(self._view.models)


def _process(view: View) -> Iterator[Metric]:
    build = [((__version__, platform.python_version()), 1.0)]
    yield _gauge("build_info", "What runs", ("version", "python"), build)
    yield _one("look_seconds", "How long this look at everything took", view.seconds)


def _places(view: View) -> Iterator[Metric]:
    yield _one("database_up", "1 when the database answers", view.counts is not None)
    yield _one("broker_up", "1 when the broker answers", view.queues is not None)
    lengths = [((name,), float(n)) for name, n in (view.queues or {}).items()]
    yield _gauge("queue_messages", "Messages that wait", ("queue",), lengths)
    if view.free_bytes is not None:
        yield _one("disk_free_bytes", "Free on the spool's volume", view.free_bytes)
    said = "Below this nothing is received"
    yield _one("disk_min_free_bytes", said, view.min_free_bytes)
    if view.spool_bytes is not None:
        yield _one("spool_bytes", "Instances in the spool", view.spool_bytes)
    ends = [((name,), end.timestamp()) for name, end in view.expiries.items()]
    said = "Until when the certificates of a file hold"
    yield _gauge("certificate_expiry_timestamp_seconds", said, ("setting",), ends)


def _counts(seen: Counts) -> Iterator[Metric]:
    cases = [((name,), float(n)) for name, n in seen.cases.items()]
    yield _gauge("cases", "Cases by place in the pathway", ("pathway",), cases)
    said = "Cases with a metastasis that stage I called low risk"
    yield _one("discordant_cases", said, seen.discordant_cases)
    by = ("state", "reason")
    yield _gauge("studies", "Studies by state and reason", by, _sorted(seen.studies))
    said = "Studies that received within 24 hours"
    yield _gauge("studies_recent", said, by, _sorted(seen.recent))
    by = ("state", "destination")
    said = "Deliveries by state and destination"
    yield _gauge("deliveries", said, by, _sorted(seen.deliveries))
    parked = [((name,), float(n)) for name, n in seen.slnd_parked.items()]
    said = "SLND results that belong to no case yet"
    yield _gauge("slnd_parked", said, ("reason",), parked)
    said = "For how long the oldest queued study waits"
    yield _one("queue_age_seconds", said, seen.queue_age_s)
    said = "For how long the oldest due delivery is due"
    yield _one("delivery_age_seconds", said, seen.delivery_age_s)
    paused = [((name,), float(is_paused)) for name, is_paused in seen.paused.items()]
    yield _gauge("queue_paused", "1 while a person has paused it", ("queue",), paused)
    if seen.audit_waiting is not None:
        said = "Entries of the audit trail that its collector has not taken"
        yield _one("audit_waiting", said, seen.audit_waiting)


def _callers(seen: Counts) -> Iterator[Metric]:
    for name, said, label in COUNTERS:
        labels = ["calling_ae", label] if label else ["calling_ae"]
        family = CounterMetricFamily(PREFIX + name, said, labels=labels)
        for one, value in seen.counters.items():
            if one.name == name:
                outcome = [one.outcome] if label else []
                family.add_metric([one.caller, *outcome], value)
        yield family


def _drift(reports: Sequence[Drift]) -> Iterator[Metric]:
    whole = [one for one in reports if one.scanner == ALL_SCANNERS]
    by = ("stage", "statistic")
    values = [((one.stage, one.statistic), one.value) for one in whole]
    yield _gauge("drift", "Statistics of live cases against training", by, values)
    chances = [
        ((one.stage, one.statistic), one.p) for one in whole if one.p is not None
    ]
    yield _gauge("drift_p", "p values of the statistics of drift", by, chances)
    alarms: dict[tuple[str], float] = {("SLN",): 0.0, ("NSLN",): 0.0}
    times: dict[tuple[str], float] = {}
    for one in reports:
        alarms[(one.stage,)] = alarms.get((one.stage,), 0.0) + one.alarm
        times[(one.stage,)] = one.at.timestamp()
    said = "Statistics in alarm in the newest report, scanners included"
    yield _gauge("drift_alarms", said, ("stage",), alarms.items())
    said = "Time of the newest report on drift"
    yield _gauge("drift_report_timestamp_seconds", said, ("stage",), times.items())


def _distributions(tally: Tally) -> Iterator[Metric]:
    said = "Wall time of the parts of one case"
    yield _histogram("stage_seconds", said, tally.parts)
    said = "From a complete study to its first result"
    yield _histogram("turnaround_seconds", said, tally.turnaround)
    said = "From a document to its arrival at a destination"
    yield _histogram("delivery_seconds", said, tally.delivery)
    yield _histogram("score", "Probabilities that stages gave", tally.scores)


def _models(models: Sequence[InUse]) -> Iterator[Metric]:
    by = ("stage", "name", "version", "weights")
    used = [((m.stage, m.name, m.version, m.weights_sha256[:12]), 1.0) for m in models]
    yield _gauge("model_info", "The model that serves a stage", by, used)
    thresholds = [
        ((m.stage, m.threshold_source), m.threshold)
        for m in models
        if m.threshold is not None
    ]
    said = "Probability at and above which a stage speaks of high risk"
    yield _gauge("threshold", said, ("stage", "source"), thresholds)


def _sorted(counts: Mapping[tuple[str, str], int]) -> Samples:
    return [(labels, float(count)) for labels, count in sorted(counts.items())]


def _one(name: str, said: str, value: float) -> Metric:
    return _gauge(name, said, (), [((), float(value))])


def _gauge(
    name: str, said: str, labels: Sequence[str], samples: Samples
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(PREFIX + name, said, labels=list(labels))
    for values, value in samples:
        family.add_metric(list(values), value)
    return family


def _histogram(name: str, said: str, of: Distribution) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + name, said, labels=list(of.labels))
    for values, one in list(of.series.items()):  # others may add
        family.add_metric(list(values), buckets=one.buckets, sum_value=one.total)
    return family
