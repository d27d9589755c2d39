"""Names of queues and tasks; light enough for every process to import."""

from typing import Final

DISPATCH: Final = "dispatch"
ANALYSIS: Final = "analysis"
DELIVERY: Final = "delivery"

SWEEP: Final = "worker.tasks.dispatch.sweep"
EXAMINE: Final = "worker.tasks.completeness.examine"
COUNT: Final = "worker.tasks.completeness.count"
ANALYZE: Final = "worker.tasks.analysis.analyze"
DELIVER: Final = "worker.tasks.delivery.deliver"
PURGE: Final = "worker.tasks.dispatch.purge"
FOLLOW: Final = "worker.tasks.dispatch.follow"
TIDY: Final = "worker.tasks.dispatch.tidy"
RELAY: Final = "worker.tasks.dispatch.relay"

QUEUE_OF: Final = {
    SWEEP: DISPATCH,
    EXAMINE: DISPATCH,
    COUNT: DISPATCH,
    ANALYZE: ANALYSIS,
    DELIVER: DELIVERY,
    PURGE: DISPATCH,
    FOLLOW: DISPATCH,
    TIDY: DISPATCH,
    RELAY: DISPATCH,
}
