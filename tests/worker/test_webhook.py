"""A signed document reaches a real server, and nobody else."""

import hashlib
import hmac
import json

import pytest

from dicom_node.errors import PeerRejectedError, PeerUnavailableError
from tests.hooks import Hook
from tests.peers import free_port
from worker import webhook

SECRET = b"not guessed by anybody"


@pytest.fixture
def hook():
    with Hook() as one:
        yield one


def test_a_document_comes_with_a_signature_that_the_receiver_can_check(hook):
    webhook.post(hook.url, SECRET, {"what": "test", "count": 3})

    (came,) = hook.taken
    signed = came.headers["X-Sentinode-Time"].encode() + b"." + came.body
    expected = hmac.new(SECRET, signed, hashlib.sha256).hexdigest()
    assert came.headers["X-Sentinode-Signature"] == f"sha256={expected}"
    assert came.headers["Content-Type"] == "application/json"
    assert json.loads(came.body) == {"what": "test", "count": 3}


def test_without_a_secret_nothing_is_signed(hook):
    webhook.post(hook.url, None, {})

    assert "X-Sentinode-Signature" not in hook.taken[0].headers


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_an_answer_that_asks_for_another_try_is_transient(hook, status):
    hook.answers = [status]

    with pytest.raises(PeerUnavailableError, match=str(status)):
        webhook.post(hook.url, SECRET, {})


@pytest.mark.parametrize("status", [302, 401, 404])
def test_a_refusal_or_a_redirect_is_final(hook, status):
    hook.answers = [status]

    with pytest.raises(PeerRejectedError, match=str(status)):
        webhook.post(hook.url, SECRET, {})
    assert len(hook.taken) == 1


def test_nobody_who_listens_is_transient_and_the_url_stays_unsaid():
    url = f"http://127.0.0.1:{free_port()}/secret-path"

    with pytest.raises(PeerUnavailableError) as caught:
        webhook.post(url, SECRET, {})
    assert "secret-path" not in str(caught.value)


@pytest.mark.parametrize("url", ["https://chat.example/x", "http://localhost:9/x"])
def test_https_and_this_host_are_taken(url):
    assert webhook.check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://chat.example/x",
        "ftp://localhost/x",
        "chat.example",
        "https://",
        "https://me:secret@chat.example/x",
    ],
)
def test_other_addresses_are_refused(url):
    with pytest.raises(ValueError, match="must"):
        webhook.check_url(url)
