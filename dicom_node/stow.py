"""The STOW-RS client: store frozen files at a DICOMweb service, one request each.

The bytes that were frozen are posted as they are. A response counts only when it
names the object: a login page that answers 200 has stored nothing.

Source: PS3.18 section 10.5.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import ParseError

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import Dataset

from dicom_node.association import CONNECT_TIMEOUT_S
from dicom_node.destination import Credentials, WebService
from dicom_node.errors import (
    PeerRejectedError,
    PeerUnavailableError,
    PermanentError,
    SettingsError,
    TransientError,
    UnreadableObjectError,
)
from dicom_node.sender import AS_IT_IS, Handling, Sendable, read_sendable
from dicom_node.silence import silence
from dicom_node.statuses import HTTP, HTTP_FAILURE, SendOutcome, judge
from dicom_node.study import SopInstanceUid

NO_CREDENTIALS: Final = Credentials()
JSON: Final = "application/dicom+json"
PROCESSING_FAILURE: Final = 0x0110

CLOSED: Final = frozenset({401, 403})
OF_THE_OBJECT: Final = frozenset({400, 406, 409, 413, 415, 422})
"""HTTP refusals that say nothing about the next object."""

# It logs what it posts where; what goes wrong is in the outcome.
logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)


@dataclass(slots=True)
class _Answers:
    """Keeps the last response, which dicomweb-client does not hand out."""

    last: requests.Response | None = field(default=None)

    def keep(self, response: requests.Response, **_: object) -> requests.Response:
        self.last = response
        return response


class _Client(DICOMwebClient):
    """Posts bytes as they are: `store_instances` would encode them once more."""

    def store(self, content: bytes) -> Dataset:
        url = f"{self.base_url}/studies"
        return self._http_post_multipart_application_dicom(url, [content])


def send(
    service: WebService,
    files: Iterable[Path],
    credentials: Credentials,
    timeout: float,
    handling: Handling = AS_IT_IS,
) -> Iterator[SendOutcome]:
    """Store files at a service, in their order, over one connection.

    Without an answer, or with one that speaks of the service and not of the object,
    every file that is left gets the same error.

    Yields:
        One outcome for each file, as it is known; nothing is raised for a service.
    """
    broken: TransientError | PermanentError | None = None
    with _session() as session:
        for path in files:
            if handling.skip(path):
                continue
            if broken is not None:
                yield SendOutcome(path, None, None, broken)
                continue
            try:
                sendable = read_sendable(path)
            except UnreadableObjectError as error:
                yield SendOutcome(path, None, None, error)
                continue
            uid = SopInstanceUid(sendable.meta.sop_instance_uid)
            try:
                status = _store(session, service, sendable, credentials, timeout)
            except (TransientError, PermanentError) as error:
                broken = error if _concerns_all(error) else None
                yield SendOutcome(path, uid, getattr(error, "status", None), error)
            else:
                yield SendOutcome(path, uid, status, judge(service, status))


def _concerns_all(error: TransientError | PermanentError) -> bool:
    status = getattr(error, "status", None)
    return status is None or status - HTTP not in OF_THE_OBJECT


def check(service: WebService, credentials: Credentials, timeout: float) -> int:
    """Ask a service for its studies' header alone; return the HTTP status.

    Raises:
        PeerUnavailableError: It does not answer.
        PeerRejectedError: It does not let us in.
        SettingsError: The credentials cannot be read.
    """
    with _session() as session:
        _prepare(session, credentials)
        try:
            answer = session.head(f"{service}/studies", timeout=timeout)
        except requests.RequestException as error:
            raise PeerUnavailableError(_sentence(service, error)) from None
    if answer.status_code in CLOSED:
        fault = judge(service, HTTP + answer.status_code)
        raise fault or PeerRejectedError(f"{service} does not let us in")
    return answer.status_code


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy, .netrc or certificates behind our back
    session.max_redirects = 0  # a redirected POST becomes a GET, which stores nothing
    return session


def _prepare(session: requests.Session, credentials: Credentials) -> None:
    header = credentials.header()
    session.headers["Accept"] = JSON
    if header is not None:
        session.headers["Authorization"] = header
    if credentials.ca_file is not None:
        session.verify = str(credentials.ca_file)


def _store(
    session: requests.Session,
    service: WebService,
    file: Sendable,
    credentials: Credentials,
    timeout: float,
) -> int:
    """Post one file and return its status.

    Raises:
        PeerUnavailableError: No answer, or one that may pass.
        PeerRejectedError: The service refuses whatever we send.
    """
    try:
        _prepare(session, credentials)
    except SettingsError as error:  # a person mends it, and the delivery goes on
        raise PeerUnavailableError(str(error)) from error
    answers = _Answers()
    client = _Client(
        str(service),
        session=session,
        callback=answers.keep,
        timeout=(min(CONNECT_TIMEOUT_S, timeout), timeout),
    )
    client.set_http_retry_params(retry=False)
    found = Dataset()
    try:
        with silence():
            found = client.store(file.path.read_bytes())
    except (requests.HTTPError, requests.JSONDecodeError):
        pass  # the response says more
    except requests.TooManyRedirects:
        text = f"{service} redirects elsewhere: set the URL that it redirects to"
        raise PeerRejectedError(text) from None
    except requests.RequestException as error:
        raise PeerUnavailableError(_sentence(service, error)) from None
    except (ValueError, KeyError, TypeError, AttributeError, ParseError):
        pass  # it is stored, or not: what can be read of the response decides
    if answers.last is None:
        raise PeerUnavailableError(f"{service} did not answer")
    return _status(service, answers.last, found, file.meta.sop_instance_uid)


def _status(
    service: WebService, response: requests.Response, found: Dataset, uid: str
) -> int:
    """Return the status of one object: a reason for it, or that of HTTP.

    Raises:
        PeerRejectedError: The service accepts, but never says that it stored it.
        PeerUnavailableError, PeerRejectedError: HTTP refused.
    """
    module = found if "ReferencedSOPSequence" in found else _parsed(response) or found
    for item in module.get("FailedSOPSequence") or ():
        if str(item.get("ReferencedSOPInstanceUID") or "") in {uid, ""}:
            return int(item.get("FailureReason") or PROCESSING_FAILURE)
    if response.status_code >= HTTP_FAILURE:
        error = judge(service, HTTP + response.status_code)
        raise error or PeerUnavailableError(f"{service} did not answer")
    for item in module.get("ReferencedSOPSequence") or ():
        if str(item.get("ReferencedSOPInstanceUID") or "") == uid:
            return int(item.get("WarningReason") or 0)
    text = (
        f"{service} answered HTTP {response.status_code}, but does not say that it "
        "stored the object: is the URL that of its DICOMweb service?"
    )
    raise PeerRejectedError(text, HTTP + response.status_code)


def _parsed(response: requests.Response) -> Dataset | None:
    """Read a JSON response whatever its media type is called."""
    try:
        with silence():
            content = response.json()
            first = content[0] if isinstance(content, list) else content
            return Dataset.from_json(first)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _sentence(service: WebService, error: requests.RequestException) -> str:
    """Say what went wrong without the text of the error, which quotes what we sent."""
    if isinstance(error, requests.exceptions.SSLError):
        return f"{service}: its certificate is not trusted; set SENTINODE_STOW_CA_FILE"
    if isinstance(error, requests.Timeout):
        return f"{service} did not answer in time"
    if isinstance(error, requests.ConnectionError):
        return f"{service} cannot be reached"
    return f"{service} cannot be asked ({type(error).__name__})"
