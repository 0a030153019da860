"""`instdisc completion` in the shells that are installed."""

import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import pytest

from tests.test_instdisc_command import error_of, instdisc
from tf_instdisc.cli.instdisc import COMMANDS
from tf_instdisc.config import recipes
from tf_instdisc.config.encoder import BACKBONES

ROOT = pathlib.Path(__file__).parent.parent
SHELLS = ("bash", "zsh", "fish")
# Asks for the words that may stand at the end of a line.
_ASK_BASH = """
source "$1"
COMP_WORDBREAKS=$2 COMP_LINE=$3 COMP_POINT=${#3}
_instdisc instdisc "${3##*[$2]}"
echo "${COMPREPLY[*]}"
"""
_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\x07]")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Files with the scripts, by shell."""
    place = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        result = instdisc("completion", shell)
        assert result.returncode == 0, result.stderr
        (place / shell).write_text(result.stdout)
    return {shell: place / shell for shell in SHELLS}


def need(shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts `instdisc` of this package where a shell finds it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "instdisc").write_text(
        f'#!/bin/sh\nexec {sys.executable} -m tf_instdisc "$@"\n'
    )
    (folder / "instdisc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def bash_words(script, line, breaks=" ="):
    need("bash")
    result = subprocess.run(
        ["bash", "--norc", "-c", _ASK_BASH, "bash", script, breaks, line],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not result.stderr
    return result.stdout.split()


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("line", "words"),
    (
        ("instdisc ", [*COMMANDS, "help", "--help", "--version"]),
        ("instdisc tr", ["train"]),
        ("instdisc help exp", ["export"]),
        ("instdisc completion f", ["fish"]),
        ("instdisc train --enc", ["--encoder="]),
        ("/usr/bin/instdisc-train --enc", ["--encoder="]),
        ("instdisc train --encoder=", list(BACKBONES)),
        ("instdisc train --encoder=resnet1", "resnet1"),
        ("instdisc train --encoder resnet1", "resnet1"),
        ("instdisc train --noflip --encoder=vit", ["vit_small"]),
        ("instdisc train --noflip --fini", ["--finish"]),
        ("instdisc train --recipe=", list(recipes.names())),
        ("instdisc evaluate --protocol=knn,lin", ["knn,linear"]),
        # Files, which bash adds by itself.
        ("instdisc train --run_dir=ru", []),
        ("instdisc diff ", []),
        # A line that cannot be completed is not an error.
        ("instdisc xyzzy --", []),
        ("instdisc train --run_dir='a b", []),
    ),
)
def test_bash_offers_what_may_follow(scripts, line, words):
    if words == "resnet1":
        words = [name for name in BACKBONES if name.startswith(words)]
    assert bash_words(scripts["bash"], line) == words


@pytest.mark.usefixtures("program")
def test_bash_that_does_not_split_at_equals_signs_replaces_the_whole(scripts):
    found = bash_words(scripts["bash"], "instdisc train --encoder=vit", " ")
    assert found == ["--encoder=vit_small"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_those_of_the_help(command):
    text = instdisc(command, "--help").stdout
    shown = set()
    for switch, name in re.findall(r"^  --(\[no\])?(\w+):", text, re.MULTILINE):
        shown |= {name, f"no{name}"} if switch else {name}
    line = f"instdisc {command} --"
    words = instdisc("completion", "bash", f"--line={line}").stdout.split()
    names = {word.strip("-=") for word in words}
    assert len(names) == len(words)
    assert names == shown | {"flagfile", "help"}


def test_a_program_that_fails_leaves_the_line_alone(scripts, tmp_path):
    need("bash")
    environment = {"PATH": "/usr/bin:/bin"}
    ask = ["bash", "--norc", "-c", _ASK_BASH, "bash", scripts["bash"]]
    result = subprocess.run(
        [*ask, " =", "instdisc train --enc"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert (result.stdout, result.stderr) == ("\n", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_its_script(scripts, shell):
    need(shell)
    subprocess.run([shell, "-n", scripts[shell]], check=True, timeout=60)


def environment_of(home):
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH")}
    return {**kept, "HOME": str(home)}


def typed(shell, script, folder, line, expected):
    """Types a line and a tab in a terminal, until something is shown."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        options = {"bash": ("--norc", "--noprofile"), "zsh": ("-f",)}
        environment = environment_of(folder) | {"TERM": "dumb", "PS1": "> "}
        os.execvpe(shell, [shell, *options[shell], "-i"], environment)
    begin = "autoload -U compinit; compinit -D -u; " if shell == "zsh" else ""
    os.write(terminal, f"{begin}source {script}\n{line}\t".encode())
    shown, end = "", time.monotonic() + 60
    while expected not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65_536).decode(errors="replace")
            shown = _SEQUENCES.sub("", shown)
    os.close(terminal)  # The shell ends, as its terminal is gone.
    os.waitpid(pid, 0)
    return shown


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("shell", ("bash", "zsh"))
@pytest.mark.parametrize(
    ("line", "expected"),
    (
        ("instdisc tr", "instdisc train "),
        ("instdisc-train --enc", "instdisc-train --encoder="),
        ("instdisc train --recipe=dig", "--recipe=digits "),
        ("instdisc evaluate --protocol=knn,li", "--protocol=knn,linear"),
        ("instdisc train --run_dir=ru", "--run_dir=runs/"),
        ("instdisc diff runs/a ru", "runs/a runs/"),
    ),
)
def test_a_terminal_completes(scripts, tmp_path, shell, line, expected):
    need(shell)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    shown = typed(shell, scripts[shell], tmp_path, line, expected)
    assert expected in shown


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize(
    ("line", "words"),
    (
        ("instdisc tr", ["train"]),
        ("instdisc help expo", ["export"]),
        ("instdisc completion f", ["fish"]),
        ("instdisc-train --enc", ["--encoder="]),
        ("instdisc train --recipe=dig", ["--recipe=digits"]),
        ("instdisc evaluate --protocol knn,lin", ["knn,linear"]),
        ("instdisc train --run_dir=ru", ["--run_dir=runs/"]),
        ("instdisc diff ru", ["runs/"]),
        ("instdisc train ru", ["runs/"]),
    ),
)
def test_fish_offers_what_may_follow(scripts, tmp_path, line, words):
    need("fish")
    (tmp_path / "runs").mkdir()
    result = subprocess.run(
        ["fish", "-c", f"source {scripts['fish']}; complete -C '{line}'"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=tmp_path,
        env=environment_of(tmp_path),
    )
    found = [offer.partition("\t")[0] for offer in result.stdout.splitlines()]
    assert found == words


def test_an_unknown_shell_suggests_the_right_one():
    error = error_of(instdisc("completion", "fsh"))
    assert error.endswith("Did you mean fish?")
