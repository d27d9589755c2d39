"""`python -m worker.cli`: the same as `sentinode`."""

from worker.cli import main

main(prog_name="sentinode")
