"""Ten thousand studies at once: each announced once, in order, in flat memory."""

import time
import tracemalloc
from datetime import timedelta
from itertools import pairwise

import pytest
from sqlalchemy import insert

from dicom_node import ledger
from dicom_node.db import now
from dicom_node.study import StudyState, StudyUid
from dicom_node.tables import StudyRow
from worker import queues
from worker.tasks import dispatch

PEAK_MB = 40


def receive_all(bench, at, count: int, state: StudyState) -> list[str]:
    """Enter studies that are quiet by now, in the order in which they came."""
    uids = [f"1.2.{number}" for number in range(1, count + 1)]
    times = [at + timedelta(milliseconds=number) for number in range(count)]
    rows = [
        {
            "study_uid": uid,
            "state": state,
            "patient_key": "a" * 64,
            "calling_ae": "PACS",
            "received_at": each,
            "last_received_at": each,
            "quiet_until": each,
            "queued_at": each if state is StudyState.QUEUED else None,
            "instances": 1,
            "revision": 1,
            "attempts": 0,
        }
        for uid, each in zip(uids, times, strict=True)
    ]
    with bench.sessions.begin() as session:
        session.execute(insert(StudyRow), rows)
    return uids


@pytest.mark.parametrize(
    ("count", "state"), [(10_000, StudyState.QUEUED), (300, StudyState.RECEIVING)]
)
def test_a_long_queue_is_announced_once_and_in_order(bench, capsys, count, state):
    uids = receive_all(bench, now() - timedelta(minutes=5), count, state)
    took, peaks = [], []
    at = now()
    tracemalloc.start()
    while len(bench.sent) < count:
        before = len(bench.sent)
        tracemalloc.reset_peak()
        since = time.perf_counter()
        dispatch.sweep(bench.sessions, bench.broker, bench.site.settings, at)
        took.append(time.perf_counter() - since)
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        bench.backlog = len(bench.sent)
        at += timedelta(seconds=1)
        assert len(bench.sent) > before
    tracemalloc.stop()
    with capsys.disabled():
        print(  # noqa: T201 - the measurement is for people
            f"\n{count} studies {state}: {len(took)} sweeps, median "
            f"{sorted(took)[len(took) // 2] * 1000:.0f} ms, longest "
            f"{max(took) * 1000:.0f} ms, peak {max(peaks):.1f} MB"
        )
    assert {name for name, _ in bench.sent} == {queues.ANALYZE}
    assert [args[0] for _, args in bench.sent] == uids
    assert max(peaks) < PEAK_MB


def test_what_kills_its_worker_goes_behind_the_others_and_stops(bench):
    entered = receive_all(bench, now(), 4, StudyState.QUEUED)
    poison, *others = [StudyUid(uid) for uid in entered]
    at = now() + timedelta(hours=1)
    served: list[str] = []
    lease = timedelta(minutes=1)
    for _ in range(3):
        with bench.sessions.begin() as session:
            order = ledger.unannounced(session, at, timedelta(0), 9)
            served.append(order[-1] if served else order[0])
            assert ledger.claim(session, poison, "w", lease, at) is not None
        at += timedelta(hours=1)
        with bench.sessions.begin() as session:
            ledger.expire_leases(session, at, 3)
    study = bench.study(poison)
    assert (study.state, study.reason) == (StudyState.FAILED, "worker_lost")
    assert served == [poison] * 3
    for one, other in pairwise(others):
        assert order.index(one) < order.index(other) < order.index(poison)
