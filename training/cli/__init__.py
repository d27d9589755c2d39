"""`python -m training`: one module per command."""

from typing import Final

import click

from dicom_node.errors import NodeError, NotFoundError, StateError
from training import demo
from training.cli import (
    bench,
    cohort,
    compare,
    demo_models,
    drift,
    evaluate,
    export,
    paper,
    phantom,
    pretrain,
    promote,
    publish,
    report,
    retrain,
    rollback,
    shadow,
    train,
)

EXIT_NOT_FOUND: Final = 3
EXIT_REFUSED: Final = 4


class _NotFound(click.ClickException):
    exit_code = EXIT_NOT_FOUND


class _Refused(click.ClickException):
    exit_code = EXIT_REFUSED


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        """Turn an error raised on purpose into one sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except NotFoundError as error:
            raise _NotFound(str(error)) from error
        except StateError as error:
            raise _Refused(str(error)) from error
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
main.add_command(report.report)
main.add_command(demo_models.demo_models)
main.add_command(demo.command)
main.add_command(publish.publish)
main.add_command(compare.compare)
main.add_command(promote.promote)
main.add_command(rollback.rollback)
main.add_command(retrain.retrain)
main.add_command(shadow.shadow)
main.add_command(drift.drift)
