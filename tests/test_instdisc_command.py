"""`instdisc`, its recipes and what it suggests, in real processes."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import textwrap

import pytest

import tf_instdisc
from tf_instdisc.cli.instdisc import COMMANDS, WITHOUT_PROGRAM
from tf_instdisc.config import recipes

pytestmark = pytest.mark.slow

COMMANDS_OF_THEIR_OWN = sorted(set(COMMANDS) - set(WITHOUT_PROGRAM))


def instdisc(*arguments, options=()):
    return subprocess.run(
        [sys.executable, *options, "-m", "tf_instdisc", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def error_of(result):
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    return line


def test_the_list_has_a_line_for_each_command():
    result = instdisc()
    assert result.returncode == 0
    listed = re.findall(r"^  (\w+)  +(.+)$", result.stdout, re.MULTILINE)
    assert dict(listed) == COMMANDS
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    for word in ("--help", "help", "-h"):
        assert instdisc(word).stdout == result.stdout


def test_the_version_is_that_of_the_package():
    assert instdisc("--version").stdout == (
        f"instdisc {tf_instdisc.__version__}\n"
    )


@pytest.mark.parametrize("name", COMMANDS_OF_THEIR_OWN)
def test_every_command_is_also_a_program(name):
    scripts = importlib.metadata.entry_points(group="console_scripts")
    program = scripts[f"instdisc-{name}"]
    assert program.value == "tf_instdisc.cli.instdisc:main"
    assert importlib.util.find_spec(f"tf_instdisc.cli.{name}")


def test_no_program_is_missing_from_the_list():
    scripts = importlib.metadata.entry_points(group="console_scripts")
    ours = {s.name for s in scripts if s.name.startswith("instdisc-")}
    assert ours == {f"instdisc-{name}" for name in COMMANDS_OF_THEIR_OWN}


@pytest.mark.parametrize("name", ("train", "evaluate"))
def test_the_help_is_that_of_the_program(name):
    as_program = (
        f"import sys; sys.argv[0] = '/usr/bin/instdisc-{name}';"
        "from tf_instdisc.cli.instdisc import main; main()"
    )
    expected = subprocess.run(
        [sys.executable, "-c", as_program, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--run_dir" in expected
    assert instdisc(name, "--help").stdout == expected
    assert instdisc("help", name).stdout == expected


@pytest.mark.parametrize(
    ("arguments", "groups"),
    (
        ((), ()),
        (("--version",), ()),
        (
            ("train", "--help"),
            ("Images:", "Augmentation:", "Encoder:", "Optimization:"),
        ),
        (("export", "--help"), ("Export:", "Trained run:")),
        (("recipes",), ()),
        (("completion", "bash"), ()),
        (("trian",), ()),
    ),
)
def test_nothing_heavy_is_imported(arguments, groups):
    result = instdisc(*arguments, options=("-X", "importtime"))
    for group in groups:
        assert f"\n{group}\n" in result.stdout
    assert "tf_instdisc" in result.stderr
    for heavy in ("tensorflow", "keras", "numpy"):
        assert not re.search(rf"\| +{heavy}\b", result.stderr)


@pytest.mark.parametrize("arguments", ((), ("train", "--help"), ("recipes",)))
def test_a_list_ends_quietly_when_its_reader_stops(arguments):
    with subprocess.Popen(
        [sys.executable, "-m", "tf_instdisc", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()  # As `head` does; nothing is written yet.
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("wrong", "right"),
    (("trian", "train"), ("neighbours", "neighbors"), ("EXPORT", "export")),
)
def test_a_wrong_command_suggests_the_right_one(wrong, right):
    assert error_of(instdisc(wrong)) == (
        f"error: The command {wrong} is unknown. Did you mean {right}?"
    )


def test_a_command_like_no_other_points_to_the_list():
    assert "lists all" in error_of(instdisc("xyzzy"))


@pytest.mark.parametrize(
    ("command", "flag", "right"),
    (
        ("train", "--encoder=resnet81", "resnet18"),
        ("train", "--objective=SOFTMAX", "softmax"),
        ("train", "--recipe=digit", "digits"),
        ("plan", "--recipe=cifar10-small", "cifar10_small"),
        ("evaluate", "--protocol=knn,lineal", "linear"),
        ("train", "--learning_rat=1", "--learning_rate"),
    ),
)
def test_a_wrong_value_suggests_the_right_one(command, flag, right):
    error = error_of(instdisc(command, "--run_dir=new", flag))
    assert error.endswith(f"Did you mean {right}?")
    name, _, value = flag.lstrip("-").partition("=")
    assert f"--{name}" in error
    assert value == "1" or f"{name}={value.split(',')[-1]!r}" in error


def test_every_recipe_is_listed_with_what_to_expect():
    result = instdisc("recipes")
    assert result.returncode == 0, result.stderr
    listed = re.findall(r"^\w+$", result.stdout, re.MULTILINE)
    assert tuple(listed) == recipes.names()
    assert len(listed) >= 8
    for name in listed:
        text = recipes.description_of(name)
        what, time, score = re.split("Expected (?:time|score): ", text)
        assert what
        assert time
        assert score
        file = recipes.path_of(name).read_text()
        for line in ("# Source:", "# Command:", "# Hardware:"):
            assert line in file
        assert f"--recipe={name}" in file
        assert f"{name}\n{textwrap.indent(text, '  ')}\n" in result.stdout
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    digits = recipes.description_of("digits")
    assert digits.startswith("Handwritten digits: the recipe of `make train`.")
    assert "\nExpected time: two or three minutes" in digits
    assert digits.endswith("0.93 for raw pixels.")


def test_a_backend_that_is_not_installed_is_reported():
    # Keras knows no such backend, whatever is installed.
    command = [sys.executable, "-m", "tf_instdisc", "plan"]
    result = subprocess.run(
        [*command, "--num_instances=1000"],
        env={**os.environ, "KERAS_BACKEND": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "Set the environment variable KERAS_BACKEND" in result.stderr
    assert "Traceback" not in result.stderr


def test_flags_override_the_recipe_in_any_position():
    train = ("train", "--run_dir=new")
    error = error_of(instdisc(*train, "--recipe=digits", "--images=folder"))
    assert "dataset=instdisc_digits and images=folder" in error
    for flags in (
        ("--recipe=digits", "--batch_size=0"),
        ("--batch_size=0", "--recipe", "digits"),
    ):
        assert "batch_size=0" in error_of(instdisc(*train, *flags))


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_recipe_trains_by_its_name(tmp_path):
    result = instdisc(
        "train",
        "--recipe=digits",
        "--split=train[:128]",
        "--epochs=1",
        "--nobaselines",
        f"--data_dir={tmp_path / 'tfds'}",
        f"--run_dir={tmp_path / 'run'}",
    )
    assert result.returncode == 0, result.stderr
    written = (tmp_path / "run" / "flags.txt").read_text()
    assert "--epochs=1\n" in written
    assert "--width=16\n" in written


def test_an_output_that_is_closed_is_not_a_bug():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tf_instdisc", "plan"),
            *("--recipe=cifar10_small", "--num_instances=100"),
        ],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    os.close(writer)
    assert result.returncode == 74
    assert "The output was closed" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_a_command_without_an_output_reports_its_error():
    """As a daemon that has closed its standard output."""
    result = subprocess.run(
        [
            *("sh", "-c", 'exec "$@" >&-', "sh"),
            *(sys.executable, "-m", "tf_instdisc", "plan"),
            "--num_instances=100",
        ],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: A run needs images.")
    assert "Give --dataset or --images." in result.stderr
