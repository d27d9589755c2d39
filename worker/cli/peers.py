"""An application entity as an option of a command: [tls:]AET@HOST:PORT."""

from collections.abc import Callable
from typing import Any

import click

from dicom_node.study import Peer


def peer_option(*names: str, **settings: Any) -> Callable[[Any], Any]:  # noqa: ANN401 - what click.option takes
    """Add an option whose value is a Peer."""
    return click.option(
        *names, callback=_peer, metavar="[tls:]AET@HOST:PORT", **settings
    )


def _peer(_: click.Context, __: click.Parameter, value: str | None) -> Peer | None:
    try:
        return None if value is None else Peer.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
