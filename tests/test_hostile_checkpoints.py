"""Hostile checkpoints end in a short message, within memory and time."""

import json
import subprocess
import sys

import pytest

from tests import commands
from tests.hostile_checkpoints import MEGABYTE, cases

pytestmark = pytest.mark.slow

FILES = cases()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    names = list(FILES)
    for number, content in enumerate(FILES.values()):
        (folder / f"{number:04d}").write_bytes(content)
    result = subprocess.run(
        [sys.executable, "-m", "tests.bounded_convert", str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    return {names[int(line["case"])]: line for line in lines}


@pytest.mark.parametrize("case", FILES)
def test_a_hostile_file_is_refused_within_bounds(outcomes, case):
    outcome = outcomes[case]
    assert outcome["error"] == "CheckpointError", outcome
    message = outcome["message"]
    assert len(message) < 600
    assert message.isprintable()
    size = len(FILES[case])
    assert outcome["memory"] < 32 * MEGABYTE + 100 * size, outcome
    assert outcome["seconds"] < 8 + 6 * size / MEGABYTE, outcome


def test_the_message_of_the_command_is_short(tmp_path):
    file = tmp_path / "x.pth"
    file.write_bytes(FILES["a name of controls"])
    result = commands.run("convert", f"--from={file}", f"--to={tmp_path}/run")
    assert result.returncode == 2
    said = result.stdout + result.stderr
    assert len(said) < 2000
    assert said.replace("\n", "").isprintable()
    assert not (tmp_path / "run").exists()
