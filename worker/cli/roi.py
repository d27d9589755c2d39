"""`sentinode roi`: which rectangles a study has, and what became of them."""

from pathlib import Path

import click

from dicom_node import ledger
from dicom_node.study import StudyUid
from worker.cli import chain, marking
from worker.cli.context import Site, site_options
from worker.cli.printing import json_option, print_json


@click.group("roi")
def command() -> None:
    """Rectangles: see what was marked, chosen and ruled out; set one by hand."""


command.add_command(marking.set_roi)
command.add_command(marking.unset_roi)
command.add_command(marking.list_rois)


@command.command()
@click.argument("uid")
@click.option(
    "--png",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw the marked slices and the analysed one into this file.",
)
@json_option
@site_options
def explain(site: Site, uid: str, png: Path | None, *, as_json: bool) -> None:
    """Print the whole chain from the marks of a study to its analysed slices.

    It is computed anew from the stored files, and changes nothing.
    """
    with site.reading() as session:
        record = ledger.study(session, StudyUid(uid))
        told = chain.tell(session, record, site)
    if png is not None:
        chain.draw(told, png)
    if as_json:
        print_json(chain.as_document(told))
    else:
        chain.print_chain(told)
        if png is not None:
            click.echo(f"drawn into {png}")
