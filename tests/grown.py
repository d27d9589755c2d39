"""A ledger as it is after years: any number of studies, with all that each leaves.

Rows are written in bulk and never through the ledger: 100,000 studies of ten instances
take some minutes. Each study leaves what a real one does (`test_plans.py` compares), in
the states of a site that is used: most are analysed and delivered, the images of the
older ones purged, some are held, ignored or failed, the newest still wait.
"""

import random
import sqlite3
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import sqlalchemy as sa

from dicom_node import db
from dicom_node.db import Base
from worker import model_tables, tables  # noqa: F401 - they enter their tables

PER_DAY = 100
INSTANCES = 10
PURGED = 0.6
"""The share of studies, the oldest, whose images are purged."""

RECEIVING, ANALYZING, QUEUED = 5, 2, 20
"""How many of the newest studies are in these states."""

DESTINATIONS = ("PACS@10.0.0.1:104", "ARCHIVE@10.0.0.2:104")
MR = "1.2.840.10008.5.1.4.1.1.4"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
SC = "1.2.840.10008.5.1.4.1.1.7"
GSPS = "1.2.840.10008.5.1.4.1.1.11.1"
SYNTAX = "1.2.840.10008.1.2.1"
BATCH = 2000

STANDINGS = (
    *[("analyzed", None)] * 178,
    *[("held", "no_roi")] * 8,
    *[("held", "phase_ambiguous")] * 4,
    ("held", "patient_mismatch"),
    *[("ignored", "not_breast_mr")] * 8,
    ("failed", "unreadable"),
)
"""How studies end, in turn."""

SAID = {
    "threshold_source": "manifest",
    **{f"{rate}_{n}": 90 for rate in ("sensitivity", "specificity") for n in "kn"},
    **{f"{rate}_low": 0.8 for rate in ("sensitivity", "specificity")},
    **{f"{rate}_high": 0.9 for rate in ("sensitivity", "specificity")},
    "dataset": "the cohort of the paper",
    "preprocessing_sha256": "d" * 64,
}
COMPUTER = {
    "torch_version": "2.9.1+cpu",
    "cpu": "AVX2",
    "threads": 1,
    "batch": "1x3x64x64",
    "code_version": "0.1.0",
}

Rows = dict[str, list[dict[str, Any]]]


def fill(url: str, studies: int, per_day: int = PER_DAY) -> None:
    """Write studies into a migrated database that holds none, the newest of now.

    Indexes are dropped meanwhile and built at the end.
    """
    engine = db.connect(url)
    write = _sqlite if engine.dialect.name == "sqlite" else _postgresql
    write(engine, _studies(studies, timedelta(days=1) / per_day))
    engine.dispose()


def _indexes() -> Iterator[sa.Index]:
    for table in Base.metadata.sorted_tables:
        yield from table.indexes


def _sqlite(engine: sa.Engine, rows: Iterator[Rows]) -> None:
    with closing(sqlite3.connect(engine.url.database or "")) as connection:
        there = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master")
        }
        for pragma in ("synchronous=OFF", "cache_size=-400000", "foreign_keys=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        indexes = [index for index in _indexes() if index.name in there]
        for index in indexes:
            connection.execute(f"DROP INDEX {index.name}")
        for several in rows:
            for name, values in several.items():
                columns = _columns(name)
                names = ", ".join(f'"{one}"' for one in columns)
                marks = ", ".join("?" * len(columns))
                connection.executemany(
                    f'INSERT INTO "{name}" ({names}) VALUES ({marks})',  # noqa: S608
                    _tuples(values, columns),
                )
            connection.commit()
        for index in indexes:
            ddl = sa.schema.CreateIndex(index).compile(dialect=engine.dialect)
            connection.execute(str(ddl))
        connection.commit()


def _postgresql(engine: sa.Engine, rows: Iterator[Rows]) -> None:
    inspected = sa.inspect(engine)
    there = {
        one["name"]
        for table in inspected.get_table_names()
        for one in inspected.get_indexes(table)
    }
    indexes = [index for index in _indexes() if index.name in there]
    with engine.begin() as connection:
        connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        connection.exec_driver_sql("SET LOCAL timezone = 'UTC'")
        connection.exec_driver_sql("SET LOCAL maintenance_work_mem = '512MB'")
        for index in indexes:
            connection.execute(sa.schema.DropIndex(index))
        cursor: Any = connection.connection.cursor()
        for several in rows:
            for name, values in several.items():
                columns = _columns(name)
                names = ", ".join(f'"{one}"' for one in columns)
                with cursor.copy(f'COPY "{name}" ({names}) FROM STDIN') as copy:
                    for row in _tuples(values, columns):
                        copy.write("\t".join(map(_text, row)) + "\n")
        for index in indexes:
            connection.execute(sa.schema.CreateIndex(index))
        for table in Base.metadata.sorted_tables:
            key = table.autoincrement_column
            if key is not None and table.name != "audit":
                newest = f'SELECT max({key.name}) FROM "{table.name}"'  # noqa: S608
                sequence = f"pg_get_serial_sequence('\"{table.name}\"', '{key.name}')"
                connection.exec_driver_sql(f"SELECT setval({sequence}, ({newest}))")


def _text(value: Any) -> str:
    return "\\N" if value is None else str(value)


def _columns(table: str) -> list[str]:
    return [column.name for column in Base.metadata.tables[table].columns]


def _tuples(rows: list[dict[str, Any]], columns: list[str]) -> Iterator[tuple[Any]]:
    return (tuple(map(row.get, columns)) for row in rows)


def _studies(studies: int, apart: timedelta) -> Iterator[Rows]:
    ids, until = Identifiers(), db.now()
    for first in range(0, studies, BATCH):
        rows: Rows = defaultdict(list)
        for number in range(first, min(first + BATCH, studies)):
            at = until - apart * (studies - number)
            Study(rows, ids, number, studies, at).write()
        yield rows


class Identifiers:
    """Numbers, digests and keys, the same in each run."""

    def __init__(self) -> None:
        self._random = random.Random(1)  # noqa: S311 - no secret
        self._numbers: defaultdict[str, count[int]] = defaultdict(lambda: count(1))

    def number(self, table: str) -> int:
        return next(self._numbers[table])

    def digest(self) -> str:
        return f"{self._random.getrandbits(256):064x}"

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128)))

    def uid(self) -> str:
        return f"2.25.{self._random.getrandbits(127)}"


class Study:
    """One study, and what it leaves in each table."""

    def __init__(
        self, rows: Rows, ids: Identifiers, number: int, of: int, at: datetime
    ) -> None:
        self.rows = rows
        self.ids = ids
        self.number = number
        self.of = of
        self.at = at
        scanner = number % 3
        # As scanners make them: a root of the device, the time, a counter.
        self.uid = f"1.3.12.2.1107.5.2.{scanner}.4{scanner}17.{at:%Y%m%d%H%M%S}{number}"
        self.caller = f"MR{scanner}"
        self.patient = ids.digest()
        self.state, self.reason = self._standing(of - number)
        self.is_purged = number < PURGED * of and self.reason != "patient_mismatch"

    def _standing(self, from_end: int) -> tuple[str, str | None]:
        edge = 0
        waiting = (
            ("receiving", RECEIVING),
            ("analyzing", ANALYZING),
            ("queued", QUEUED),
        )
        for state, many in waiting:
            edge += many
            if from_end <= edge:
                return state, None
        return STANDINGS[self.number * 7 % len(STANDINGS)]

    def after(self, seconds: float) -> str:
        """A time as both databases read it."""
        return f"{self.at + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S.%f}"

    def add(self, table: str, **values: Any) -> None:
        self.rows[table].append(values)

    def event(self, seconds: float, what: str, detail: str) -> None:
        number = self.ids.number("event")
        at = self.after(seconds)
        self.add(
            "event",
            event_id=number,
            study_uid=self.uid,
            at=at,
            what=what,
            detail=detail,
        )

    def audit(self, seconds: float, what: str, source: str) -> None:
        self.add(
            "audit",
            sequence=self.ids.number("audit"),
            at=self.after(seconds),
            code="110104",
            action="C",
            outcome=0,
            what=what,
            actor="sentinode",
            host="node",
            study=self.uid,
            object_id=source.partition(":")[2],
            peer=DESTINATIONS[0],
            patient=self.patient,
            detail=what,
            source=source,
            previous_hash="0" * 64,
            hash=self.ids.digest(),
        )

    def write(self) -> None:
        self._study()
        images = self._instances()
        if self.state == "receiving":
            return
        self.event(121, "queued", "complete: quiet, and no association open")
        if self.number % 10 == 0:
            self._annotation()
        if self.state == "queued":
            return
        self.event(122, "analyzing", "claimed by worker")
        if self.state == "analyzing":
            return
        self.event(125, self.state, self.reason or "side L, result version 1")
        if self.reason == "patient_mismatch":
            self._conflict(images[0])
        if self.state == "analyzed":
            self._results(images)
        if self.is_purged:
            self.event(60 * 86400, "purged", "9 image file(s), 4718592 bytes")

    def _study(self) -> None:
        claimed = self.state == "analyzing"
        self.add(
            "study",
            study_uid=self.uid,
            state=self.state,
            reason=self.reason,
            detail=None if self.reason is None else "What is to be done about it.",
            patient_key=self.patient,
            calling_ae=self.caller,
            received_at=self.after(0),
            last_received_at=self.after(1),
            quiet_until=self.after(121),
            instances=INSTANCES,
            revision=INSTANCES,
            attempts=0 if self.state in {"receiving", "queued"} else 1,
            queued_at=None if self.state == "receiving" else self.after(121),
            announced_at=None if self.state == "receiving" else self.after(121),
            claim_token=self.ids.uuid() if claimed else None,
            claimed_by="worker" if claimed else None,
            lease_until=self.after(86400) if claimed else None,
            bulk=0,
        )
        self.event(0, "receiving", f"first object from {self.caller}")
        self.add(
            "completeness",
            study_uid=self.uid,
            examined_revision=INSTANCES,
            unanswered=0,
        )

    def _instances(self) -> list[str]:
        opened = self.ids.uuid()
        self.add(
            "association",
            association_id=opened,
            listener=f"SENTINODE@node:{11112}",
            calling_ae=self.caller,
            peer_address="10.0.0.9",
            opened_at=self.after(0),
            closed_at=None if self.state == "receiving" else self.after(1.5),
        )
        self.add(
            "association_study",
            association_id=opened,
            study_uid=self.uid,
            objects=f"{MR}={INSTANCES}",
        )
        self.audit(1.5, "instances received", f"association:{opened}:{self.uid}")
        uids = [f"{self.uid}.{n}" for n in range(INSTANCES)]
        for number, uid in enumerate(uids):
            is_mark = number == INSTANCES - 1
            self._instance(uid, GSPS if is_mark else MR, own=False)
        return uids

    def _instance(self, uid: str, sop_class: str, *, own: bool) -> None:
        digest = self.ids.digest()
        goes = self.is_purged and sop_class == MR
        self.add(
            "instance",
            sop_instance_uid=uid,
            study_uid=self.uid,
            series_uid=f"{self.uid}.99",
            sop_class_uid=sop_class,
            transfer_syntax_uid=SYNTAX,
            path=f"instances/{digest[:2]}/{digest}/{digest}.dcm",
            size=524288,
            sha256=digest,
            patient_key=self.patient,
            calling_ae=self.caller,
            received_at=self.after(1),
            own=int(own),
            accepted=0,
            purged_at=self.after(60 * 86400) if goes else None,
        )

    def _annotation(self) -> None:
        """A mark refers to an image of another study, or to one that never came."""
        came = self.number % 40 != 0
        self.add(
            "annotation",
            document_uid=f"{self.uid}.{INSTANCES - 1}",
            image_uid=self.ids.uid(),
            study_uid=self.uid if came else None,
            patient_differs=0,
            recorded_at=self.after(122),
        )

    def _conflict(self, image: str) -> None:
        digest = self.ids.digest()
        self.add(
            "conflict",
            conflict_id=self.ids.number("conflict"),
            study_uid=self.uid,
            sop_instance_uid=image,
            path=f"quarantine/{digest}.dcm",
            sha256=digest,
            patient_differs=1,
            received_at=self.after(1),
        )

    def _results(self, images: list[str]) -> None:
        versions = 2 if self.number % 5 == 0 else 1
        case, results = self.ids.uuid(), [self.ids.uuid() for _ in range(versions)]
        times = [125.0, 14 * 86400.0][:versions]
        pathway = "sln_negative" if versions > 1 else "awaiting_slnd"
        slnd = self._slnd(times[-1]) if versions > 1 else None
        self.add(
            "case",
            case_id=case,
            study_uid=self.uid,
            laterality="L",
            pathway=pathway,
            result_id=results[-1],
            stale=0,
            rewrite=0,
            studied_on=f"{self.at:%Y-%m-%d}",
            opened_at=self.after(125),
            updated_at=self.after(times[-1]),
        )
        for n, (result, at) in enumerate(zip(results, times, strict=True)):
            self._result(case, result, at, images)
            self.rows["result"][-1] |= {
                "version": n + 1,
                "pathway": "awaiting_slnd" if n == 0 else pathway,
                "supersedes": results[n - 1] if n else None,
                "superseded_by": results[n + 1] if n + 1 < versions else None,
                "slnd_id": slnd if n else None,
            }
            self._documents(result, at, is_newest=n + 1 == versions)

    def _slnd(self, seconds: float) -> int:
        message, number = self.ids.number("hl7_message"), self.ids.number("slnd")
        self.add(
            "hl7_message",
            message_id=message,
            control_key=self.ids.digest(),
            content_key=self.ids.digest(),
            received_at=self.after(seconds),
            code="AA",
            text="recorded",
            conflicts=0,
        )
        self.add(
            "slnd",
            slnd_id=number,
            study_uid=self.uid,
            laterality="L",
            result="negative",
            performed_on=f"{self.at + timedelta(days=10):%Y-%m-%d}",
            source="HL7 message",
            recorded_at=self.after(seconds),
            recorded_by="HL7",
            message_id=message,
        )
        self.audit(seconds, "slnd by HL7", f"slnd:{number}")
        return number

    def _result(
        self, case: str, result: str, seconds: float, images: list[str]
    ) -> None:
        parts = ("select", "decode", "inference", "report", "total")
        box = {f"roi_{name}": 40.0 for name in ("x0", "y0", "x1", "y1")}
        self.add(
            "result",
            result_id=result,
            case_id=case,
            study_uid=self.uid,
            laterality="L",
            created_at=self.after(seconds),
            discordant=int(self.number % 200 == 0),
            roi_carrier="GSPS",
            roi_carrier_sop_instance_uid=images[-1],
            roi_sop_instance_uid=images[0],
            roi_frame=1,
            **box,
            roi_author="Reader",
            roi_marked_at=self.after(0),
            roi_exact=1,
            source_sop_instance_uid=images[0],
            source_frame=1,
            phase="post-contrast 1",
            laterality_derived=1,
            area_mm2=480.0,
            candidates=1,
            why='["1 rectangle on the left side, 480 mm2"]',
            input_sop_instance_uids=f'["{images[0]}", "{images[-1]}"]',
            input_sha256=self.ids.digest(),
            code_version="0.1.0",
            scanner="3.0T",
            **{f"{part}_ms": 120.0 for part in parts},
        )
        for stage, ran in (("SLN", True), ("NSLN", False)):
            numbers = {"probability": 0.4, "threshold": 0.5, "risk": "low"}
            model = {"model": "sln@1.0.0", "weights_sha256": "c" * 64, "device": "cpu"}
            said = numbers | model | SAID | COMPUTER if ran else {}
            status = "done" if ran else "pending"
            self.add("stage", result_id=result, stage=stage, status=status, **said)
        self.add(
            "kept",
            result_id=result,
            study_uid=self.uid,
            crop_sha256=self.ids.digest(),
            slice_sha256=self.ids.digest(),
        )
        self.audit(seconds, "result created", f"result:{result}")

    def _documents(self, result: str, seconds: float, *, is_newest: bool) -> None:
        documents = [(self.ids.uid(), "SR", SR), (self.ids.uid(), "SC", SC)]
        for uid, kind, sop_class in documents:
            digest = self.ids.digest()
            self.add(
                "document",
                sop_instance_uid=uid,
                study_uid=self.uid,
                result_id=result,
                kind=kind,
                sop_class_uid=sop_class,
                sha256=digest,
                path=f"documents/{digest[:2]}/{digest}.dcm",
                size=20000,
                created_at=self.after(seconds),
            )
            if self.number % 4 == 0:  # the archive routes it back
                self._instance(uid, sop_class, own=True)
        for destination in DESTINATIONS:
            transfer = self.ids.uuid()
            for uid, _, sop_class in documents:
                self._delivery(result, uid, sop_class, destination, seconds)
            self.add(
                "transfer",
                transfer_id=transfer,
                study_uid=self.uid,
                destination=destination,
                began_at=self.after(seconds + 1),
                ended_at=self.after(seconds + 2),
                objects=f"{SR}=1,{SC}=1",
                failed=0,
            )
            for what in ("begin", "sent"):
                source = f"{what}:{transfer}:{self.uid}"
                self.audit(seconds + 1, "documents sent", source)

    def _delivery(
        self, result: str, uid: str, sop_class: str, destination: str, seconds: float
    ) -> None:
        state = {7: "failed", 8: "cancelled"}.get(self.number % 1000, "sent")
        if self.number == self.of - 50:
            state = "due"
        committed = state == "sent" and destination == DESTINATIONS[1]
        went = state == "sent"
        delivery = self.ids.uuid()
        self.add(
            "delivery",
            delivery_id=delivery,
            sop_instance_uid=uid,
            result_id=result,
            destination=destination,
            state="committed" if committed else state,
            attempts=1,
            last_status=0 if went else None,
            created_at=self.after(seconds),
            due_since=self.after(seconds),
            next_attempt_at=self.after(seconds + 86400) if state == "due" else None,
            sent_at=self.after(seconds + 2) if went else None,
            study_uid=self.uid,
            sent_as=uid if went else None,
            commitment="committed" if committed else None,
            commitment_tries=int(committed),
            resends=0,
        )
        if committed:
            self.add(
                "commitment",
                commitment_id=self.ids.number("commitment"),
                transaction_uid=self.ids.uid(),
                delivery_id=delivery,
                sop_class_uid=sop_class,
                sop_instance_uid=uid,
                state="committed",
                asked_at=self.after(seconds + 3),
                reported_at=self.after(seconds + 4),
            )
