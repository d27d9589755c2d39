"""The points of the path at which something is killed, in the field's terms."""

from dataclasses import dataclass

SQLITE, POSTGRESQL, UP = "sqlite", "postgresql", "up"
BOTH = (SQLITE, POSTGRESQL)
LISTENER, DISPATCH, ANALYSIS, BEAT = "listener", "dispatch", "analysis", "beat"
BROKER, DATABASE, PACS, TREE = "broker", "PostgreSQL", "PACS", "sentinode up"


@dataclass(frozen=True, slots=True)
class Point:
    """A point, the process that dies there, and on which databases it is tried.

    `occurrences` is the range from which a seed draws the how-manieth time. Without
    one the process is killed from outside at a random moment under load.
    """

    name: str
    process: str
    what: str
    occurrences: tuple[int, int] | None = None
    databases: tuple[str, ...] = BOTH

    @property
    def is_random(self) -> bool:
        return self.occurrences is None


POINTS = (
    Point("listener-mid-pdu", LISTENER, "half of a PDU is read", (1, 20)),
    Point(
        "listener-mid-transfer",
        LISTENER,
        "some fragments of a data set have come, not the last",
        (1, 20),
    ),
    Point("listener-partial-file", LISTENER, "a `.part` file is half written", (1, 10)),
    Point("listener-before-name", LISTENER, "written, but without its name", (1, 10)),
    Point("listener-before-row", LISTENER, "after the file, before its row", (1, 10)),
    Point("listener-row-uncommitted", LISTENER, "rows in an open transaction", (1, 2)),
    Point("listener-before-success", LISTENER, "after the row, before Success", (1, 2)),
    Point("listener-success-no-row", LISTENER, "after Success, before the row", (1, 1)),
    Point("listener-release", LISTENER, "at release of the association", (1, 2)),
    Point("listener-random", LISTENER, "any moment under load"),
    Point(
        "dispatch-queued-uncommitted", DISPATCH, "before `queued` is committed", (1, 1)
    ),
    Point(
        "dispatch-before-message",
        DISPATCH,
        "after `queued`, before its message",
        (1, 1),
    ),
    Point(
        "dispatch-message-unrecorded",
        DISPATCH,
        "after the message, before it is entered as sent",
        (1, 1),
    ),
    Point("dispatch-random", DISPATCH, "any moment under load"),
    Point("analysis-claimed", ANALYSIS, "after the claim", (1, 2)),
    Point("analysis-inferred", ANALYSIS, "after inference, before commit", (1, 2)),
    Point("analysis-frozen", ANALYSIS, "documents on disk, no row", (1, 2)),
    Point("analysis-uncommitted", ANALYSIS, "result in an open transaction", (1, 2)),
    Point(
        "analysis-before-wake-up", ANALYSIS, "after commit, before the message", (1, 2)
    ),
    Point("analysis-random", ANALYSIS, "any moment under load"),
    Point("delivery-claimed", DISPATCH, "after the claim", (1, 1)),
    Point("delivery-mid-send", DISPATCH, "half of a PDU is sent", (1, 4)),
    Point("delivery-before-status", DISPATCH, "sent, its status not read", (1, 4)),
    Point("delivery-status-unrecorded", DISPATCH, "status read, not committed", (1, 4)),
    Point("delivery-between-documents", DISPATCH, "after one of several", (1, 4)),
    Point("beat-before-message", BEAT, "before the message of a sweep", (1, 8)),
    Point("beat-random", BEAT, "any moment under load"),
    Point("broker-random", BROKER, "any moment under load"),
    Point(
        "postgres-backend-mid-commit",
        DATABASE,
        "a server process, around a COMMIT",
        (1, 40),
        (POSTGRESQL,),
    ),
    Point(
        "postgres-postmaster-mid-commit",
        DATABASE,
        "the postmaster, around a COMMIT",
        (1, 40),
        (POSTGRESQL,),
    ),
    Point("pacs-mid-receive", PACS, "half of a PDU has come", (1, 4)),
    Point("pacs-random", PACS, "any moment under load"),
    Point("up-random", TREE, "any moment under load", None, (UP,)),
)

BY_NAME = {point.name: point for point in POINTS}
