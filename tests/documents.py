"""The pages that users read, and the code blocks in them."""

import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "export" / "README.md",
        ROOT / "examples" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    )
)
# `instdisc train ...`, also after `exec` and within quotes.
_COMMAND = re.compile(r"(?<![\w./\[$(-])instdisc(?=[ -]|$)[^'|&;)]*")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@functools.cache
def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(markdown: str, language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    return [code for kind, code in _FENCE.findall(markdown) if kind == language]


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return fenced(text(page), language)


def block(page: str, part: str) -> str:
    """The only Python block of a page that contains some text."""
    (code,) = [code for code in blocks(page, "python") if part in code]
    return code


def prose(page: str) -> str:
    """The page without its fenced blocks."""
    return _FENCE.sub("", text(page))


def lines(code: str) -> list[str]:
    """The command lines of a block, each on one line, without comments."""
    joined = re.sub(r"\s*\\\n\s*", " ", code).splitlines()
    found = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined)
    return [line for line in found if line]


def commands(page: str) -> list[str]:
    """The command lines of a page."""
    return [line for code in blocks(page, "sh") for line in lines(code)]


def instdisc_commands(line: str) -> list[str]:
    """The commands of this package in a command line."""
    return [command.strip() for command in _COMMAND.findall(line)]


def replaced(code: str, replacements: dict[str, str]) -> str:
    """Code with other words, each of which must be in it."""
    for old, new in replacements.items():
        assert old in code, old
        code = code.replace(old, new)
    return code
