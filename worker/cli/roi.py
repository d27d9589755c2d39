"""`sentinode roi`: rectangles, where they come from, and setting one by hand."""

import click

from worker.cli import marking


@click.group("roi")
def command() -> None:
    """Set the rectangle of a study by hand."""


command.add_command(marking.set_roi)
command.add_command(marking.unset_roi)
command.add_command(marking.list_rois)
