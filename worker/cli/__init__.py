"""`sentinode`: the administrator's command line; one module per noun.

Modules are imported when their command is called, so that `--help` stays fast and
no command pays for what it does not use.
"""

import sys
from importlib import import_module
from typing import Final, NoReturn

import click

from dicom_node import __version__
from dicom_node.errors import NodeError, NotFoundError, StateError

COMMANDS: Final = {
    "audit": ("worker.cli.audit", "Who did what; whether the record of it holds."),
    "backup": ("worker.cli.backup", "Copy a running installation."),
    "completion": ("worker.cli.completion", "Complete our commands in your shell."),
    "db": ("worker.cli.database", "Create, upgrade or inspect the database."),
    "deliveries": ("worker.cli.deliveries", "What was sent where, and what waits."),
    "doctor": ("worker.cli.doctor", "Check everything that Sentinode depends on."),
    "fetch": ("worker.cli.fetch", "Get studies from an archive."),
    "import": ("worker.cli.importing", "Take in DICOM files and media."),
    "metrics": ("worker.cli.metrics", "Print counts for a monitoring system."),
    "models": ("worker.cli.models", "List models and put them into service."),
    "monitor": ("worker.cli.monitor", "Serve status page, metrics and health."),
    "pathology": (
        "worker.cli.pathology",
        "Import labels and clinical variables for training.",
    ),
    "patient": ("worker.cli.patient", "Take everything of a patient out."),
    "queue": ("worker.cli.queue", "What waits, what is paused; pause and resume."),
    "reconcile": ("worker.cli.reconcile", "Compare files, database and archives."),
    "restore": ("worker.cli.restore", "Put a backup into an empty folder."),
    "results": ("worker.cli.results", "What the models said of each case."),
    "roi": ("worker.cli.roi", "What was marked and chosen, and why; mark by hand."),
    "rules": ("worker.cli.rules", "Try routing rules before they count."),
    "selftest": ("worker.cli.selftest", "A synthetic study through the live system."),
    "send": ("worker.cli.send", "Send DICOM files to any application entity."),
    "slnd": ("worker.cli.slnd", "Record results of dissection, list and import them."),
    "stats": ("worker.cli.stats", "What was done in the last days."),
    "studies": ("worker.cli.studies", "Find, complete, stop and reprocess studies."),
    "up": ("worker.cli.up", "Run broker, listener and workers in one process tree."),
}

EXIT_FAILED: Final = 1
EXIT_NOT_FOUND: Final = 3
EXIT_REFUSED: Final = 4


class _Commands(click.Group):
    """The commands of `COMMANDS`, imported on demand; errors become exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        try:
            command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`sentinode {cmd_name}` needs {error.name}: install sentinode[worker]"
            ) from error
        return command

    def format_commands(
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        """List the commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what Sentinode raises on purpose becomes one sentence."""
        try:
            return super().invoke(ctx)
        except NotFoundError as error:
            _exit(EXIT_NOT_FOUND, error)
        except StateError as error:
            _exit(EXIT_REFUSED, error)
        except NodeError as error:
            _exit(EXIT_FAILED, error)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            sentence = _of_a_library(error)
            if sentence is None:
                raise
            _exit(EXIT_FAILED, sentence)


def _of_a_library(error: Exception) -> str | None:
    """Return what to say of a fault of database or migrations; None of any other."""
    from alembic.util import CommandError  # noqa: PLC0415 - only after a fault
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return (
            f"the database does not answer or has no tables ({type(error).__name__}); "
            "check SENTINODE_DATABASE_URL, then run `sentinode db upgrade`"
        )
    return None


def _exit(code: int, why: object) -> NoReturn:
    click.echo(f"sentinode: {why}", err=True)
    sys.exit(code)


@click.command(cls=_Commands)
@click.version_option(__version__, prog_name="sentinode")
def main() -> None:
    """Sentinode: research on axillary lymph node risk in breast DCE-MRI.

    RESEARCH USE ONLY: nothing that this program prints or sends is a diagnosis.

    Exit codes: 0 done; 1 failed; 2 wrong usage; 3 not found; 4 refused by state.
    """
