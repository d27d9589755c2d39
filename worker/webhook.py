"""Tell a web service something: one signed JSON document, posted once.

The document must hold no patient's data; who posts it answers for that. The receiver
checks `X-Sentinode-Signature`, "sha256=" and the HMAC-SHA-256 in hex, keyed with the
shared secret, of the time in `X-Sentinode-Time`, a dot, and the body.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import requests

from dicom_node.errors import (
    PeerRejectedError,
    PeerUnavailableError,
    PermanentError,
    TransientError,
)

SIGNATURE: Final = "X-Sentinode-Signature"
TIME: Final = "X-Sentinode-Time"
TIMEOUT_S: Final = 10.0
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
LATER: Final = frozenset({408, 425, 429})
"""HTTP refusals that ask for another try."""

SUCCESS: Final = range(200, 300)
SERVER_ERROR: Final = 500


def check_url(url: str) -> str:
    """Return a URL that documents may be posted to.

    Raises:
        ValueError: It is not https, nor http on this host; or it holds a password.
    """
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in LOOPBACK
    if not parts.hostname or not (parts.scheme == "https" or local):
        raise ValueError("must be https://..., or http:// on this host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user or password; requests are signed instead")
    return url


def post(
    url: str,
    secret: bytes | None,
    document: Mapping[str, object],
    timeout: float = TIMEOUT_S,
) -> None:
    """Post a document once; without a secret it is not signed.

    Raises:
        TransientError: No answer, or one that asks for another try.
        PermanentError: The service refused the document, or redirects: a document
            goes to nobody but whom it is for.
    """
    body = json.dumps(document, sort_keys=True, default=str).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "sentinode"}
    if secret is not None:
        at = str(int(time.time()))
        headers |= {TIME: at, SIGNATURE: sign(secret, at, body)}
    try:
        answer = requests.post(
            url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        )
    except requests.RequestException as error:
        name = type(error).__name__  # its text quotes the URL, which may be a secret
        raise PeerUnavailableError(f"the webhook does not answer ({name})") from None
    _judge(answer.status_code)


def sign(secret: bytes, at: str, body: bytes) -> str:
    """Return the signature of a body that is sent at a time (seconds since 1970)."""
    signed = hmac.new(secret, at.encode() + b"." + body, hashlib.sha256)
    return f"sha256={signed.hexdigest()}"


def _judge(status: int) -> None:
    if status in SUCCESS:
        return
    error: TransientError | PermanentError
    if status in LATER or status >= SERVER_ERROR:
        error = PeerUnavailableError(f"the webhook answers HTTP {status}", status)
    else:
        error = PeerRejectedError(f"the webhook refuses with HTTP {status}", status)
    raise error
