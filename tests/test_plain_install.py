"""Commands without extras still print text."""

import json

import pytest

from tests import commands
from tests.finished_run import fill_folder, make_run

pytestmark = pytest.mark.slow

EXTRAS = (
    *("bokeh", "jinja2", "matplotlib", "pycocotools"),
    *("starlette", "uvicorn"),
)
IMAGES = [f"{i}.png" for i in range(6)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    fill_folder(root / "images", IMAGES)
    return make_run(root / "run", root / "images")


def plain(command, *arguments, cwd=None):
    case = {"command": command, "arguments": arguments, "absent": EXTRAS}
    return commands.run_all([case], cwd)[0]


@pytest.mark.exhaustive
def test_neighbors_are_printed(run):
    arguments = (f"--run_dir={run.path}", "--query=random:2")
    result = plain("neighbors", *arguments, "--format=tsv")
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 1 + 2 * 5
    result = plain("neighbors", *arguments, "--format=json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert {line["query"] for line in lines} < set(IMAGES)


@pytest.mark.exhaustive
def test_near_duplicates_are_printed_and_written(run, tmp_path):
    result = plain(
        "duplicates",
        f"--run_dir={run.path}",
        "--output=-,found.tsv",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    header = "group\tplace\tinstance_id"
    assert result.stdout.startswith(header)
    assert (tmp_path / "found.tsv").read_text().startswith(header)


@pytest.mark.parametrize(
    ("command", "extra"),
    (
        ("neighbors", "report"),
        ("duplicates", "report"),
        ("report", "report"),
        ("browse", "browse"),
    ),
)
def test_a_page_names_the_extra(command, extra, run, tmp_path):
    result = plain(command, f"--run_dir={run.path}", cwd=tmp_path)
    assert result.returncode == 2
    assert f"pip install 'tf_instdisc[{extra}]'" in result.stderr
    assert not list(tmp_path.iterdir())
