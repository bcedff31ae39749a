"""Prometheus metrics of the nightly reconciliation. Counts, never amounts."""

from prometheus_client import Gauge

DIFFERENCES = Gauge(
    "reconciliation_differences",
    "Rows in which two books disagreed at the last nightly reconciliation.",
    ["kind"],
    multiprocess_mode="mostrecent",
)
FAILED = Gauge(
    "reconciliation_failed_organizations",
    "Organizations that the last nightly reconciliation could not compare.",
    multiprocess_mode="mostrecent",
)
FINISHED = Gauge(
    "reconciliation_finished_timestamp_seconds",
    "When the last nightly reconciliation ended.",
    multiprocess_mode="mostrecent",
)
