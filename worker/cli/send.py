"""`sentinode send`: a storage SCU for people."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track

from dicom_node import sender
from dicom_node.errors import PermanentError, UnreadableObjectError
from dicom_node.sender import Handling, SendOutcome
from dicom_node.study import Peer
from dicom_node.tls import Caller, TlsFiles
from worker.cli.peers import peer_option
from worker.cli.printing import json_option, print_json


def _files(paths: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the files to send in the order of their names, and what is left out.

    A file that was named is tried, whatever it is; what lies beside the DICOM files
    of a folder is left out.
    """
    named = [path for path in map(Path, paths) if path.is_file()]
    found = [
        file
        for path in map(Path, paths)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    ]
    left_out = [file for file in found if not _is_dicom(file)]
    return [*named, *(file for file in found if file not in left_out)], left_out


def _is_dicom(path: Path) -> bool:
    try:
        sender.read_sendable(path)
    except UnreadableObjectError:
        return False
    return True


def _tls_file(name: str, said: str) -> Callable[[Any], Any]:
    return click.option(
        f"--tls-{name}",
        envvar=f"SENTINODE_TLS_{name.upper()}",
        type=click.Path(path_type=Path),
        help=f"{said} [SENTINODE_TLS_{name.upper()}]",
    )


def _tls(files: Mapping[str, Path | None]) -> TlsFiles:
    named = {name.removeprefix("tls_"): path for name, path in files.items()}
    return TlsFiles(**named)


@click.command("send")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True), metavar="PATH..."
)
@peer_option("--to", "peer", required=True)
@click.option("--aet", default="SENTINODE", show_default=True, help="Calling AE title.")
@_tls_file("ca", "Authorities that a peer called by TLS must have a certificate of.")
@_tls_file("certificate", "Our certificate, for a peer that asks for one.")
@_tls_file("key", "Its private key.")
@click.option(
    "--native/--no-native",
    envvar="SENTINODE_NATIVE_STORE",
    default=True,
    help="Write C-STORE requests ourselves, or by pynetdicom [SENTINODE_NATIVE_STORE].",
)
@json_option
def command(
    paths: Sequence[str],
    peer: Peer,
    aet: str,
    *,
    native: bool,
    as_json: bool,
    **files: Path | None,
) -> None:
    """Send DICOM files, and all files below folders, to an application entity.

    Files in folders that are not DICOM are left out, and counted. Exit code 1 when
    an object was not stored.
    """
    found, left_out = _files(paths)
    caller = Caller(aet, _tls(files))
    outcomes = list(
        track(
            sender.send(peer, caller, found, handling=Handling(native=native)),
            total=len(found),
            description=f"to {peer}",
            console=Console(stderr=True),
        )
    )
    stored = sum(outcome.error is None for outcome in outcomes)
    if as_json:
        print_json([_as_document(outcome) for outcome in outcomes])
    else:
        click.echo(f"{stored} of {len(found)} stored at {peer}")
        if left_out:
            click.echo(
                f"{len(left_out)} files are not DICOM and were left out", err=True
            )
        for outcome in outcomes:
            if outcome.error is not None:
                click.echo(f"{outcome.path}: {outcome.error}", err=True)
    if stored < len(found):
        raise PermanentError(f"{len(found) - stored} objects were not stored at {peer}")


def _as_document(outcome: SendOutcome) -> dict[str, object]:
    return {
        "path": str(outcome.path),
        "sop_instance_uid": outcome.sop_instance_uid,
        "status": None if outcome.status is None else f"0x{outcome.status:04X}",
        "error": None if outcome.error is None else str(outcome.error),
    }
