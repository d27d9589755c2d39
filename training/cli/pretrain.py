"""`python -m training pretrain`."""

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from training import trunks
from training.pretrain import Plan, Told, pretrain

FILE = click.Path(dir_okay=False, path_type=Path)
SMOOTH = 0.98


@click.command("pretrain")
@click.option("--out", type=FILE, required=True, help="New .safetensors file.")
@click.option("--steps", type=click.IntRange(min=2), default=Plan().steps)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(min=4), default=32, show_default=True)
@click.option(
    "--autocast/--no-autocast",
    default=True,
    show_default=True,
    help="Convolve in bfloat16: faster where the processor knows it.",
)
def pretrain_command(  # noqa: PLR0913 - one parameter per option of the contract
    out: Path, steps: int, seed: int, threads: int, batch: int, *, autocast: bool
) -> None:
    """Pre-train a ResNet18 trunk on drawn blobs; no patient, label or phantom is seen.

    A run that was stopped goes on where it was when it is started again.

    Example: python -m training pretrain --out trunk.safetensors
    """
    plan = Plan(steps=steps, seed=seed, threads=threads, batch=batch, autocast=autocast)
    checkpoint = out.with_suffix(".checkpoint")
    console = Console(stderr=True)
    smooth = 1.0
    with Progress(
        TextColumn("Pre-training: {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(),
        TextColumn("not explained {task.fields[left]:.1%}"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        bar = progress.add_task("", total=plan.steps, left=1.0)

        def told(one: Told) -> None:
            nonlocal smooth
            smooth = SMOOTH * smooth + (1 - SMOOTH) * one.loss
            progress.update(bar, completed=one.step, left=smooth)

        tensors = pretrain(plan, checkpoint, told)
    digest = trunks.write(out, tensors, plan)
    checkpoint.unlink(missing_ok=True)
    click.echo(f"{out} SHA-256 {digest}")
