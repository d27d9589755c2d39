"""The completion script is one that the shell accepts and that completes."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from worker.cli import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script(shell):
    done = CliRunner().invoke(main, ["completion", shell])
    assert done.exit_code == 0
    assert "_SENTINODE_COMPLETE" in done.stdout


def test_bash_accepts_it(tmp_path):
    script = CliRunner().invoke(main, ["completion", "bash"]).stdout
    path = tmp_path / "completion"
    path.write_text(script)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_a_word_is_completed():
    environment = os.environ | {
        "_SENTINODE_COMPLETE": "bash_complete",
        "COMP_WORDS": "sentinode studies re",
        "COMP_CWORD": "2",
    }
    script = "from worker.cli import main; main(prog_name='sentinode')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert {"plain,reprocess", "plain,requeue"} <= set(done.stdout.split()), done
