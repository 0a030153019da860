"""`instdisc completion`, in the shells that are there."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from tests.test_instdisc_command import error_of, instdisc
from tf_instdisc.cli.completion import flags_of
from tf_instdisc.cli.completion_scripts import SHELLS
from tf_instdisc.cli.instdisc import COMMANDS
from tf_instdisc.config import recipes
from tf_instdisc.config.encoder import BACKBONES

# Asks for the words that follow those on standard input, a line each.
_ASK_BASH = """
source "$1"
while read -ra COMP_WORDS; do
  [[ ${COMP_WORDS[-1]} == END ]] && COMP_WORDS[-1]=
  COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _instdisc
  echo "${COMPREPLY[*]}"
done
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


def bash_words(script, *lines):
    """What bash offers after each of some lines, split as bash does."""
    need("bash")
    asked = "".join(f"{line}{'END' * line.endswith(' ')}\n" for line in lines)
    result = subprocess.run(
        ["bash", "--norc", "-c", _ASK_BASH, "bash", script],
        input=asked,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not result.stderr
    return [line.split() for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    (
        ("instdisc ", [*COMMANDS, "help", "--help", "--version"]),
        ("instdisc tr", ["train"]),
        ("instdisc help exp", ["export"]),
        ("instdisc completion f", ["fish"]),
        ("instdisc train --enc", ["--encoder="]),
        ("/usr/bin/instdisc-train --enc", ["--encoder="]),
        ("instdisc train --encoder =", list(BACKBONES)),
        ("instdisc train --encoder = resnet1", "resnet1"),
        ("instdisc train --encoder resnet1", "resnet1"),
        # Where COMP_WORDBREAKS has no "=".
        ("instdisc train --encoder=vit", ["--encoder=vit_small"]),
        ("instdisc train --noflip --encoder = vit", ["vit_small"]),
        ("instdisc train --noflip --fini", ["--finish"]),
        ("instdisc train --recipe =", list(recipes.names())),
        ("instdisc evaluate --protocol = knn,lin", ["knn,linear"]),
        ("instdisc evaluate --protocol=knn,lin", ["--protocol=knn,linear"]),
        # Files, which bash adds by itself.
        ("instdisc train --run_dir = ru", []),
        ("instdisc diff ", []),
    ),
)
def test_bash_offers_what_may_follow(scripts, line, words):
    if words == "resnet1":
        words = [name for name in BACKBONES if name.startswith(words)]
    assert bash_words(scripts["bash"], line) == [words]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_flags_are_those_of_the_help(scripts, command):
    text = instdisc(command, "--help").stdout
    shown = set()
    for switch, name in re.findall(r"^  --(\[no\])?(\w+):", text, re.MULTILINE):
        shown |= {name, f"no{name}"} if switch else {name}
    flags = flags_of(command)
    names = {flag.name for flag in flags}
    assert len(names) == len(flags)
    assert names == shown | {"flagfile", "help"}
    (words,) = bash_words(scripts["bash"], f"instdisc {command} --")
    assert {word.strip("-=") for word in words} == names
    zsh = scripts["zsh"].read_text().partition(f"\n  {command}) ")[2]
    zsh = zsh.partition(";;")[0]
    assert set(re.findall(r"'\*?--(\w+)=?\[", zsh)) == names
    fish = re.findall(
        rf"-n '__instdisc_at {command}' -l (\w+)", scripts["fish"].read_text()
    )
    assert set(fish) == names


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_its_script(scripts, shell):
    need(shell)
    subprocess.run([shell, "-n", scripts[shell]], check=True, timeout=60)


def typed(shell, script, folder, line, expected):
    """Types a line and a tab in a terminal, until something is shown."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        options = {"bash": ("--norc", "--noprofile"), "zsh": ("-f",)}
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
        environment |= {"TERM": "dumb", "PS1": "> "}
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


@pytest.mark.parametrize(
    ("line", "words"),
    (
        ("instdisc tr", ["train"]),
        ("instdisc help expo", ["export"]),
        ("instdisc completion f", ["fish"]),
        ("instdisc-train --enc", ["--encoder"]),
        ("instdisc train --recipe=dig", ["--recipe=digits"]),
        ("instdisc evaluate --protocol knn,lin", ["knn,linear"]),
        ("instdisc train --epochs=", []),
        ("instdisc train --run_dir=ru", ["--run_dir=runs/"]),
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
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
    )
    found = [offer.partition("\t")[0] for offer in result.stdout.splitlines()]
    assert found == words


def test_an_unknown_shell_suggests_the_right_one():
    error = error_of(instdisc("completion", "fsh"))
    assert error.endswith("Did you mean fish?")
