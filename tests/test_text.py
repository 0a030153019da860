"""Text from outside, for people and tools."""

import sys
import unicodedata

import pytest

from tf_instdisc.text import markdown_table, shown, shown_message, tsv

HOSTILE = (
    "\x1b[2J\x1b]0;title\x07",
    "a\nb\r\tc\x0b\x0c",
    "\x9b31m",
    "\x7f\x00\x85",
    "cat\u202egpj.exe",
    "\u2066x\u2069\u200f\u061c",
    "a\u2028b\u2029c",
    "zero\u200bwidth\ufeff",
    "\udc80\ud800",
    "back\\slash\\n",
    "\U000e0041",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_act_on_is_escaped(text):
    escaped = shown(text)
    assert escaped.isprintable()
    escaped.encode("utf-8")
    back = escaped.encode("ascii", "backslashreplace").decode("unicode_escape")
    assert back == text
    assert shown_message(text).replace("\n", "").isprintable()


def test_every_character_is_printed_safely_and_comes_back():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        escaped = shown(character)
        if escaped != character:
            assert escaped.isascii()
            assert escaped.encode().decode("unicode_escape") == character
        elif not character.isprintable():
            # Spaces, and what is private or not assigned, do nothing.
            assert unicodedata.category(character) in ("Zs", "Co", "Cn")


def test_names_of_people_are_left_alone():
    for name in ("a b.jpg", "Größe.png", "猫\u3000犬", "é", "🦊.png"):
        assert shown(name) == name


def test_a_limit_holds_after_escaping():
    for text in ("x" * 500, "\x1b" * 500, "\U000e0041" * 500, "\\" * 200):
        assert len(shown(text, 200)) == 200
        assert shown(text, 200).endswith("...")
    assert shown("x" * 200, 200) == "x" * 200
    assert shown("\x1b", 200) == "\\x1b"


def test_messages_keep_their_lines_and_backslashes():
    assert shown_message("a\n  b\\n\x1b[0m\r") == "a\n  b\\n\\x1b[0m\\r"


def test_tsv_has_a_line_a_row_and_a_column_a_value():
    lines = tsv(("a", "b"), [(name, 1) for name in HOSTILE])
    rows = [line.split("\t") for line in lines.removesuffix("\n").split("\n")]
    assert rows[0] == ["a", "b"]
    assert [len(row) for row in rows] == [2] * (len(HOSTILE) + 1)
    for row, name in zip(rows[1:], HOSTILE, strict=True):
        text = row[0].encode("ascii", "backslashreplace")
        assert text.decode("unicode_escape") == name


def test_a_markdown_table_has_a_line_a_row():
    table = markdown_table(("", "b"), [("c", 1), ("d", "")])
    assert table == "|  | b |\n| --- | --- |\n| c | 1 |\n| d |  |\n"
