"""A small PACS for the demo: a process of its own that speaks only DICOM.

It stores what it is sent, and auto-routes what came from the modality to one
application entity, as a hospital's PACS does. It is no archive: no query, no index.
"""

import queue
import signal
import threading
import time
from pathlib import Path
from typing import Final

import click
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    Verification,
)

from dicom_node.study import Peer

CLASSES: Final = (
    MRImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    EnhancedSRStorage,
    ComprehensiveSRStorage,
    Comprehensive3DSRStorage,
    SecondaryCaptureImageStorage,
)
SYNTAXES: Final = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
SUCCESS: Final = 0x0000
RETRY_S: Final = 1.0

Waiting = queue.SimpleQueue[Path]


def _stored(event: evt.Event, folder: Path, modality: str, waiting: Waiting) -> int:
    """Keep an object under its SOP Instance UID; route on what the modality sent."""
    path = folder / f"{event.file_meta.MediaStorageSOPInstanceUID}.dcm"
    draft = path.with_suffix(".part")
    draft.write_bytes(event.encoded_dataset())
    draft.replace(path)
    if event.assoc.requestor.ae_title == modality:
        waiting.put(path)
    return SUCCESS


def _route(aet: str, target: Peer, waiting: Waiting) -> None:
    """Send on what waits, for ever; what was not taken is tried again."""
    batch: list[Path] = []
    while True:
        batch = batch or [waiting.get()]
        while not waiting.empty():
            batch.append(waiting.get())
        batch = _send(aet, target, batch)
        if batch:
            time.sleep(RETRY_S)


def _send(aet: str, target: Peer, batch: list[Path]) -> list[Path]:
    """Send files in one association and return those that were not taken."""
    ae = AE(aet)
    for sop_class in CLASSES:
        ae.add_requested_context(sop_class, SYNTAXES)
    association = ae.associate(target.host, target.port, ae_title=target.ae_title)
    if not association.is_established:
        return batch
    left = [path for path in batch if not _taken(association, path)]
    association.release()
    return left


def _taken(association: Association, path: Path) -> bool:
    status = association.send_c_store(path)
    return "Status" in status and status.Status == SUCCESS


@click.command()
@click.option("--aet", default="DEMO_PACS", show_default=True)
@click.option("--port", required=True, type=int)
@click.option("--folder", required=True, type=click.Path(path_type=Path))
@click.option("--modality", default="MODALITY", help="AE title whose objects go on.")
@click.option("--route-to", "target", required=True, metavar="AET@HOST:PORT")
def main(aet: str, port: int, folder: Path, modality: str, target: str) -> None:
    """Store what arrives, route on what the modality sent, until SIGTERM."""
    folder.mkdir(parents=True, exist_ok=True)
    waiting: Waiting = queue.SimpleQueue()
    router = threading.Thread(
        target=_route, args=(aet, Peer.parse(target), waiting), daemon=True
    )
    router.start()
    ae = AE(aet)
    ae.add_supported_context(Verification)
    for sop_class in CLASSES:
        ae.add_supported_context(sop_class, SYNTAXES)
    server = ae.start_server(
        ("127.0.0.1", port),
        block=False,
        evt_handlers=[(evt.EVT_C_STORE, _stored, [folder, modality, waiting])],
    )
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    if server is not None:
        server.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
