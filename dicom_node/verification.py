"""Does an application entity answer? C-ECHO, of peers and of our own listener."""

import time

from pynetdicom.presentation import build_context

from dicom_node.association import CONNECT_TIMEOUT_S, associate, end, status_of
from dicom_node.codestream import UNCOMPRESSED
from dicom_node.contexts import VERIFICATION
from dicom_node.errors import PeerRejectedError, PeerUnavailableError
from dicom_node.study import Peer
from dicom_node.tls import Calling


def echo(peer: Peer, calling: Calling, timeout: float = CONNECT_TIMEOUT_S) -> float:
    """Verify that a peer answers (C-ECHO); return the round trip in milliseconds.

    Raises:
        PeerUnavailableError: No association, or no answer in time.
        PeerRejectedError: The peer answered with another status than Success.
    """
    context = build_context(VERIFICATION, list(UNCOMPRESSED))
    association = associate(peer, calling, [context], timeout)
    try:
        started = time.perf_counter()
        status = status_of(association.send_c_echo())
        elapsed = (time.perf_counter() - started) * 1000
    except (RuntimeError, ValueError) as error:
        raise PeerUnavailableError(f"{peer} does not take C-ECHO") from error
    finally:
        end(association)
    if status is None:
        raise PeerUnavailableError(f"{peer} did not answer the C-ECHO")
    if status != 0:
        raise PeerRejectedError(f"{peer} answered 0x{status:04X}", status)
    return elapsed
