"""The commands of README and docs are valid, and the site is built."""

import dataclasses
import html.parser
import importlib
import re
import shlex
import subprocess
import sys

import pytest

from tests import documents
from tests.documents import PAGES, ROOT
from tf_instdisc.cli.instdisc import COMMANDS
from tf_instdisc.config import recipes
from tf_instdisc.config.fields import (
    checked,
    flag_of,
    from_texts,
    is_setting,
    parse,
    read_flagfile,
)
from tf_instdisc.config.run import from_flags

# Of absl, and of the command itself.
_ALWAYS = {"help", "flagfile", "version"}
# Flags in prose that belong to other programs.
_OF_OTHERS = {"ssl_config_file", "enable_batching", "target"} | {
    *("environment_type", "flink_master", "project", "region"),  # Beam's.
    *("sdk_container_image", "temp_location"),
}
# Programs of another library.
_ELSEWHERE = ("python main.py", "python cifar.py")
_WITHOUT_FLAGS = ("recipes", "completion")


def settings_of(name):
    return importlib.import_module(f"tf_instdisc.cli.{name}").SETTINGS


def flags_of(name):
    """The settings class and the field of each flag of a command."""
    found = {}
    for kind in settings_of(name):
        for field in filter(is_setting, dataclasses.fields(kind)):
            found.setdefault(flag_of(field), (kind, field))
    return found


def commands():
    for page in PAGES:
        for line in documents.commands(page):
            for command in documents.instdisc_commands(line):
                yield pytest.param(command, id=f"{page}: {command}")


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documentation_is_accepted(command):
    first, *words = shlex.split(command)
    if first == "instdisc":
        if not words or words == ["--version"]:
            return
        name, *words = words
    else:
        name = first.removeprefix("instdisc-")
    assert name in COMMANDS
    given = read_flagfile("\n".join(w for w in words if w.startswith("--")))
    if name in _WITHOUT_FLAGS or "help" in given:
        return
    flags = flags_of(name)
    for flag, value in given.items():
        if flag not in _ALWAYS:
            kind, field = flags[flag]
            checked(kind, field, parse(kind, field, value))
    if "flagfile" in given:
        return
    if "recipe" in given:
        text = recipes.path_of(given["recipe"]).read_text()
        given = {**read_flagfile(text), **given}
    if name in ("train", "plan"):
        from_flags(given).data.require_images()
    for kind in settings_of(name):
        if all(map(is_setting, dataclasses.fields(kind))):
            is_used = kind is settings_of(name)[0] or name != "evaluate"
            if is_used:
                from_texts(kind, given)


@pytest.mark.parametrize("page", PAGES)
def test_shell_blocks_parse(page):
    for code in documents.blocks(page, "sh"):
        result = subprocess.run(
            ["bash", "-n"],
            input=code,
            text=True,
            capture_output=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES)
def test_what_other_commands_name_exists(page):
    lines = documents.commands(page)
    lines += re.findall(r"`((?:make|pip|python) [^`]+)`", documents.prose(page))
    makefile = (ROOT / "Makefile").read_text()
    setup = (ROOT / "setup.cfg").read_text()
    for line in lines:
        words = line.split()
        if line.startswith(_ELSEWHERE):
            continue
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), line
        for extra in re.findall(r"'(?:\.|tf_instdisc)\[(\w+)\]'", line):
            assert re.search(rf"^{extra} =$", setup, re.MULTILINE), line
        for file in re.findall(r"\bpython3? (\S+\.py)", line):
            assert (ROOT / file).exists() or (ROOT / "export" / file).exists()


@pytest.mark.parametrize("page", PAGES)
def test_flags_in_prose_exist(page):
    names = {
        f
        for name in COMMANDS.keys() - set(_WITHOUT_FLAGS)
        for f in flags_of(name)
    }
    for span in re.findall(r"`(?!python )([^`]+)`", documents.prose(page)):
        for flag in re.findall(r"(?<![\w-])--(\w[\w-]*)", span):
            if page.endswith("coming_from.md") and flag not in names:
                continue  # Another library's.
            known = names | _ALWAYS | _OF_OTHERS
            assert flag in known or flag.removeprefix("no") in names, span


class _Addresses(html.parser.HTMLParser):
    """Collects what a page loads."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.found.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in (
            "canonical",
            "next",
            "prev",
        ):
            self.found.append(given.get("href") or "")


def test_the_site_is_built_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            f"--site-dir={tmp_path / 'site'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        addresses = _Addresses()
        addresses.feed(page.read_text(encoding="utf-8"))
        assert addresses.found
        for address in addresses.found:
            assert not re.match(r"(\w+:)?//", address), (page, address)
    reference = "".join(
        page.read_text(encoding="utf-8")
        for page in (tmp_path / "site" / "api").iterdir()
    )
    import tf_instdisc

    for name in tf_instdisc.__all__:
        assert f'id="tf_instdisc.{name}"' in reference, name
