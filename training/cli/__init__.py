"""`python -m training`: one module per command."""

import click

from dicom_node.errors import NodeError
from training import demo
from training.cli import (
    bench,
    cohort,
    demo_models,
    evaluate,
    export,
    paper,
    phantom,
    pretrain,
    train,
)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """Turn an error raised on purpose into one sentence and exit code 1."""
        try:
            return super().invoke(ctx)
        except (NodeError, FileExistsError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def main() -> None:
    """Train and try Sentinode models. Research use only."""


main.add_command(paper.paper)
main.add_command(phantom.phantom)
main.add_command(pretrain.pretrain_command)
main.add_command(cohort.cohort)
main.add_command(export.export)
main.add_command(train.train_command)
main.add_command(evaluate.evaluate_command)
main.add_command(bench.bench_command)
main.add_command(demo_models.demo_models)
main.add_command(demo.command)
