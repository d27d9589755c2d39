"""How a database means to find rows: by an index, or by reading a whole table."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from dicom_node.db import Base
from worker import model_tables, tables  # noqa: F401 - they enter their tables

GROWING = frozenset(
    {
        "annotation",
        "association",
        "association_study",
        "audit",
        "case",
        "commitment",
        "completeness",
        "conflict",
        "delivery",
        "document",
        "event",
        "hl7_message",
        "instance",
        "kept",
        "result",
        "slnd",
        "stage",
        "study",
        "transfer",
    }
)
"""Tables that have more rows the more studies there were."""

PARTIAL = frozenset(
    str(index.name)
    for table in Base.metadata.sorted_tables
    for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None
)
FEW_PAGES = 50
READ_TO_THE_END = frozenset({"Sort", "Aggregate", "Hash"})

Node = dict[str, Any]
Sent = dict[str, Any]
"""Statements with the parameters that each had first."""


@contextmanager
def sent(engine: sa.Engine) -> Iterator[Sent]:
    """Collect what is sent to a database."""
    found: Sent = {}

    def keep(connection, cursor, statement, parameters, context, executemany):
        verb = statement.lstrip().partition(" ")[0].upper()
        if verb in {"SELECT", "UPDATE", "DELETE", "WITH"}:
            found.setdefault(statement, parameters[0] if executemany else parameters)

    sa.event.listen(engine, "before_cursor_execute", keep)
    try:
        yield found
    finally:
        sa.event.remove(engine, "before_cursor_execute", keep)


@contextmanager
def steps(engine: sa.Engine) -> Iterator[list[int]]:
    """Count the steps of SQLite's machine, in tens; unlike time they are the same.

    What reads more rows makes more steps.
    """
    counted = [0]

    def tick() -> None:
        counted[0] += 1

    def watch(connection, *_) -> None:
        connection.set_progress_handler(tick, 10)

    sa.event.listen(engine, "checkout", watch)
    try:
        yield counted
    finally:
        sa.event.remove(engine, "checkout", watch)
        engine.dispose()


def whole_reads(connection: sa.Connection, statements: Sent) -> dict[str, set[str]]:
    """Return of each statement that reads a growing table whole: which, and how.

    A walk along a whole index counts too, unless it ends at a LIMIT, or the index is
    partial: that holds the few rows that its condition names.
    """
    plan = _sqlite if connection.dialect.name == "sqlite" else _postgresql
    found = {
        statement: set(plan(connection, statement, parameters))
        for statement, parameters in statements.items()
    }
    return {statement: reads for statement, reads in found.items() if reads}


def _sqlite(
    connection: sa.Connection, statement: str, parameters: Any
) -> Iterator[str]:
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
    details = [row.detail for row in plan]
    ends = "LIMIT" in statement and "USE TEMP B-TREE FOR ORDER BY" not in details
    for detail in details:
        read = re.fullmatch(r"SCAN (\w+?)(?:_\d+)?(?: USING.* INDEX (\w+))?", detail)
        if read is None or read[1] not in GROWING or read[2] in PARTIAL:
            continue
        if not (ends and read[2]):
            yield detail


def _postgresql(
    connection: sa.Connection, statement: str, parameters: Any
) -> Iterator[str]:
    """Look at the plan, and at the one if tables of a few pages were large.

    Those are read whole rather than by any index; what matters is that there is one.
    """
    for node, ends in _nodes(_explain(connection, statement, parameters)):
        if _is_whole(node, ends=ends) and not _is_small(connection, node):
            yield _said(node)
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
    for node, ends in _nodes(_explain(connection, statement, parameters)):
        has_index = node["Node Type"] != "Seq Scan"
        small = has_index and _is_small(connection, node)
        if _is_whole(node, ends=ends) and not small:
            yield _said(node)
    connection.exec_driver_sql("SET LOCAL enable_seqscan = on")


def _explain(connection: sa.Connection, statement: str, parameters: Any) -> Node:
    explained = connection.exec_driver_sql(
        f"EXPLAIN (FORMAT JSON) {statement}", parameters
    ).scalar_one()
    plan: Node = explained[0]["Plan"]
    return plan


def _nodes(node: Node, *, ends: bool = False) -> Iterator[tuple[Node, bool]]:
    """Yield the steps of a plan, and whether each ends once a LIMIT is reached."""
    kind = node["Node Type"]
    ends = (ends or kind == "Limit") and kind not in READ_TO_THE_END
    yield node, ends
    for one in node.get("Plans", ()):
        yield from _nodes(one, ends=ends)


def _is_whole(node: Node, *, ends: bool) -> bool:
    kind, table = node["Node Type"], node.get("Relation Name")
    if table not in GROWING:
        return False
    if kind == "Seq Scan":
        return True
    is_walk = kind in {"Index Scan", "Index Only Scan"} and "Index Cond" not in node
    is_bounded = ends and "Filter" not in node
    return is_walk and not is_bounded and node["Index Name"] not in PARTIAL


def _is_small(connection: sa.Connection, node: Node) -> bool:
    if "Relation Name" not in node:
        return False
    pages = connection.exec_driver_sql(
        "SELECT relpages FROM pg_class WHERE relname = %(name)s",
        {"name": node["Relation Name"]},
    ).scalar_one()
    return int(pages) <= FEW_PAGES


def _said(node: Node) -> str:
    by = f" by {node['Index Name']}" if "Index Name" in node else ""
    return f"{node['Node Type']} on {node['Relation Name']}{by}"
