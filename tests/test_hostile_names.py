"""Control characters of file names reach neither terminal nor TSV raw."""

import json
import unicodedata

import numpy as np
import pytest

from tests import commands
from tests.finished_run import fill_folder, make_run, picture, save_picture
from tf_instdisc.data.folder import UnreadableImageError, report_unreadable
from tf_instdisc.text import shown

pytestmark = pytest.mark.slow

CLASS = "cl\x1b[31mass\nb\tc"
NAMES = (
    f"{CLASS}/\x1b[2Jclear.png",
    f"{CLASS}/line\nend.png",
    f"{CLASS}/ta\tb.png",
    f"{CLASS}/c1\x9b31m.png",
    "b\u202e/gpj\u2066.png",
    "b\u202e/back\\slash.png",
)


def require_safe(text):
    for character in text:
        category = unicodedata.category(character)
        assert character in "\n\t" or category not in ("Cc", "Cf", "Cs"), repr(
            text
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    fill_folder(path, NAMES)
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", folder)


@pytest.mark.exhaustive
def test_lines_of_neighbors(run):
    flags = (f"--run_dir={run.path}", "--query=random:6", "--num_neighbors=3")
    result = commands.run("neighbors", *flags, "--format=tsv")
    assert result.returncode == 0, result.stderr
    require_safe(result.stdout + result.stderr)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert {len(row) for row in rows} == {7}
    assert {row[4] for row in rows[1:]} <= set(map(shown, NAMES))
    result = commands.run("neighbors", *flags, "--format=json")
    require_safe(result.stdout + result.stderr)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    named = {cell["name"] for row in found for cell in row["neighbors"]}
    assert named <= set(NAMES)
    assert len(found) == 6


def test_lines_of_duplicates_embed_and_update(run, folder, tmp_path):
    result = commands.run(
        "duplicates", f"--run_dir={run.path}", "--threshold=0.01", "--output=-"
    )
    assert result.returncode == 0, result.stderr
    require_safe(result.stdout + result.stderr)
    header, *rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert rows
    assert {len(row) for row in rows} == {len(header)}
    names = {row[header.index("name")] for row in rows}
    assert names <= set(map(shown, NAMES))

    more = tmp_path / "mo\x1b[1mre"
    fill_folder(more, [*NAMES[1:], "b\u202e/new\x1b]0;x\x07.png"])
    (more / "b\u202e" / "bad\x1b[5m\n.png").write_bytes(b"bad")
    output = tmp_path / "out.npz"
    result = commands.run(
        "embed",
        f"--run_dir={run.path}",
        f"--images={more}",
        f"--output={output}",
    )
    assert result.returncode == 0, result.stderr
    require_safe(result.stdout + result.stderr)
    assert "bad\\x1b[5m\\n.png" in result.stderr
    listing = (tmp_path / "out.npz.failed.txt").read_text("utf-8")
    assert listing == "b\\u202e/bad\\x1b[5m\\n.png\n"
    with np.load(output) as embedded:
        assert f"{CLASS}/line\nend.png" in embedded["names"]

    result = commands.run("update", f"--run_dir={run.path}", f"--images={more}")
    require_safe(result.stdout + result.stderr)
    assert "new\\x1b]0;x\\x07.png" in result.stdout + result.stderr


def test_unreadable_images_are_named_in_one_line_each(capsys):
    report_unreadable([NAMES[1]], 5, "fol\x1bder", "skip")
    said = capsys.readouterr().out
    require_safe(said)
    assert f"  {shown(NAMES[1])}\n" in said
    with pytest.raises(UnreadableImageError) as error:
        report_unreadable([NAMES[0]], 5, "folder", "fail")
    require_safe(str(error.value))


def test_errors_of_commands_are_escaped(tmp_path):
    folder = tmp_path / "a\x1b[2Jb"
    save_picture(folder, "x/a.png", picture(0))
    result = commands.run(
        "embed",
        f"--run_dir={tmp_path}/no\x1b[2Jrun",
        f"--images={folder}",
        f"--output={tmp_path}/out.npz",
    )
    assert result.returncode == 2
    require_safe(result.stdout + result.stderr)
