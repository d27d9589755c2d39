"""Names that are no setting: a misspelt one must not be silently left out."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

ALIKE: Final = 0.8
"""From this likeness on a name is a misspelt one, not something of somebody else's."""

ELSEWHERE: Final = frozenset(
    {
        "analysis_time_limit",
        "answer_timeout",
        "audit_syslog",
        "audit_syslog_ca_file",
        "audit_syslog_certificate",
        "audit_syslog_key",
        "backlog_after",
        "broker_password_file",
        "broker_url",
        "bulk_ahead",
        "commit",
        "commit_timeout",
        "commit_wait",
        "complete_early",
        "delivery_time_limit",
        "device",
        "device_uid",
        "drift_interval",
        "give_up_after",
        "hl7_allow",
        "hl7_frame_timeout",
        "hl7_host",
        "hl7_idle_timeout",
        "hl7_issuers",
        "hl7_max_bytes",
        "hl7_port",
        "hl7_processing_id",
        "hl7_tls_certificate",
        "hl7_tls_client_ca",
        "hl7_tls_key",
        "hl7_words",
        "http_host",
        "http_port",
        "http_token_file",
        "itc_is_positive",
        "max_attempts",
        "models_dir",
        "outputs",
        "query",
        "query_timeout",
        "readers",
        "require_phase",
        "resend_after",
        "retention_days",
        "retrain_attempts",
        "retrain_automatic",
        "retrain_cases",
        "retrain_centre",
        "retrain_days",
        "retrain_every_days",
        "retrain_external",
        "retrain_first_cases",
        "retrain_first_positives",
        "retrain_folds",
        "retrain_holdout",
        "retrain_lease",
        "retrain_nsln_automatic",
        "retrain_nsln_cases",
        "retrain_positives",
        "retrain_recipe",
        "retrain_schedule",
        "retrain_time_limit",
        "retrain_webhook",
        "retrain_webhook_secret_file",
        "retry_after",
        "roi_overlays",
        "routing",
        "shadow_interval",
        "slnd_window_days",
        "stage_two",
        "station",
        "stow",
        "stow_ca_file",
        "stow_password_file",
        "stow_token_file",
        "sweep_interval",
        "webhook_secret_file",
        "webhook_url",
        "workers",
    }
)
"""Settings of workers and trainer, which the listener does not read: all processes of
a host share one file and one environment. A test compares them with their classes."""

BESIDE: Final = frozenset(
    {
        "analysis_cpus",
        "node_image",
        "real_data",
        "trainer_image",
        "training_cpus",
        "worker_image",
    }
)
"""Variables with our prefix that the compose file and the tests read."""


def meant(name: str, known: Iterable[str]) -> str | None:
    """Return the setting that a misspelt name was probably meant to be."""
    found = get_close_matches(name.lower(), sorted(known), n=1, cutoff=ALIKE)
    return found[0] if found else None
