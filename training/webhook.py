"""Telling another system what came of a retraining: JSON without a word of patients."""

import hashlib
import hmac
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

SIGNATURE: Final = "X-Sentinode-Signature"
TIMEOUT_S: Final = 10.0
PAUSES_S: Final = (1.0, 4.0, 16.0)
SERVER_FAULT: Final = 500
TOO_MANY: Final = 429


def post(
    url: str,
    message: Mapping[str, Any],
    secret_file: Path | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Post a message, again after a while when it fails; say whether it arrived.

    With a secret the header `X-Sentinode-Signature` is `sha256=` and the HMAC of the
    body. What a receiver refuses (4xx) is not repeated. Never raises: a report that
    is lost must not undo a retraining.
    """
    body = json.dumps(message, sort_keys=True, default=str).encode()
    headers = {"Content-Type": "application/json"}
    try:
        if secret_file is not None:
            secret = secret_file.read_bytes().strip()
            headers[SIGNATURE] = f"sha256={hmac.digest(secret, body, 'sha256').hex()}"
    except OSError as error:
        log.error("webhook secret unreadable", extra={"error": error.strerror})  # noqa: TRY400
        return False
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - http(s) by setting
    for pause in (*PAUSES_S, None):
        answered, final = _try(request)
        if answered or final or pause is None:
            return answered
        sleep(pause)
    return False


def _try(request: urllib.request.Request) -> tuple[bool, bool]:
    """Return whether it arrived, and whether another try is useless."""
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - as above
            return True, True
    except urllib.error.HTTPError as error:
        error.close()
        log.warning("webhook refused", extra={"status": error.code})
        return False, error.code < SERVER_FAULT and error.code != TOO_MANY
    except (OSError, ValueError) as error:
        log.warning("webhook unreachable", extra={"error": type(error).__name__})
        return False, False


def verify(secret: bytes, body: bytes, signature: str) -> bool:
    """Check a signature as a receiver does."""
    expected = hmac.new(secret, body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(f"sha256={expected}", signature)
