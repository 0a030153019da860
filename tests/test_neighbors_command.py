"""Neighbor grids: search, pictures, pages and lines."""

import dataclasses
import html.parser
import json
import pathlib
import urllib.parse

import numpy as np
import pytest
from PIL import Image

import tf_instdisc
from tests import commands
from tests.browser import open_page
from tests.finished_run import (
    NASTY_NAMES,
    fill_folder,
    make_run,
    picture,
    save_picture,
)
from tf_instdisc.cli import neighbors as command
from tf_instdisc.cli import options
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.retrieval import neighbor_rows
from tf_instdisc.retrieval import queries as search
from tf_instdisc.retrieval.pages import grid, pages
from tf_instdisc.runs import images as run_images
from tf_instdisc.text import tsv

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("neighbors")
    plain = [f"{kind}/{i}.png" for kind in ("cats", "собаки") for i in range(9)]
    fill_folder(root / "images", [*NASTY_NAMES, *plain])
    return make_run(root / "run", root / "images")


@pytest.fixture(scope="module")
def images(run):
    return run_images.open_images(run)


class Page(html.parser.HTMLParser):
    """Collects what a browser would see of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.names = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.names += [value for name, value in attrs if name == "alt"]

    def handle_data(self, data):
        self.texts.append(data)


def test_neighbors_equal_an_exhaustive_search(images):
    queries = search.random_queries(images, 7, seed=3)
    found = search.nearest(queries, images.bank, 5)
    rows = images.bank.rows.astype(np.float64)
    for i, own in enumerate(queries.positions):
        scores = [float(np.dot(rows[own], row)) for row in rows]
        order = sorted(range(len(rows)), key=lambda j: -scores[j])
        expected = [j for j in order if j != own][:5]
        assert found.positions[i].tolist() == expected
        np.testing.assert_allclose(
            found.scores[i], [scores[j] for j in expected], atol=1e-6
        )


def test_a_query_is_left_out_even_among_equal_rows(images):
    rows = np.tile(images.bank.rows[:1], (6, 1))
    bank = images.bank.__class__(
        rows,
        np.arange(6),
        images.bank.names[:6],
        images.bank.labels[:6],
        images.bank.class_names,
    )
    queries = search.row_queries(
        dataclasses.replace(images, bank=bank), np.array([5])
    )
    found = search.nearest(queries, bank, 3)
    assert found.positions.shape == (1, 3)
    assert 5 not in found.positions


def test_images_come_back_at_their_rows(images):
    positions = np.array([4, 0, 4, 11])
    pictures, found = images.read(positions, 48)
    assert found.all()
    for image, position in zip(pictures, positions, strict=True):
        name = str(images.bank.names[position])
        path = f"{images.config.data.images}/{name}"
        np.testing.assert_array_equal(image, np.asarray(Image.open(path)))


def test_images_of_a_tfds_data_set_come_back_by_id(tmp_path):
    from sklearn import datasets

    from tf_instdisc.data.tfds_source import tfds_source

    source = tfds_source("instdisc_digits", "train[:50]", str(tmp_path))
    stored = {
        int(e["instance_id"]): e["image"]
        for e in source.examples(None).as_numpy_iterator()
    }
    bank = run_images.Bank(
        rows=np.zeros([3, 2], np.float32),
        instance_ids=np.array([7, 20, 49]),
        names=np.array(["a", "b", "c"]),
        labels=np.zeros(3, int),
    )
    config = RunConfig(
        DataConfig(
            dataset="instdisc_digits",
            split="train[:50]",
            data_dir=str(tmp_path),
        )
    )
    pictures, found = run_images.RunImages(bank, config).read([2, 0], 8)
    assert found.all()
    np.testing.assert_array_equal(pictures[0][..., :1], stored[49])
    np.testing.assert_array_equal(pictures[1][..., :1], stored[7])
    known = np.round(datasets.load_digits().images * (255 / 16))
    assert (known == pictures[0][..., 0]).all(axis=(1, 2)).any()


def test_a_deleted_image_is_gray_and_not_an_error(tmp_path):
    fill_folder(tmp_path / "images", ["a.png", "b.png"])
    run = make_run(tmp_path / "run", tmp_path / "images")
    (tmp_path / "images" / "a.png").unlink()
    pictures, found = run_images.open_images(run).read(np.array([0, 1]), 8)
    assert found.tolist() == [False, True]
    assert (pictures[0] == 128).all()


def test_names_are_shown_as_they_are_and_do_no_harm(run, images):
    positions = np.arange(len(images.bank.rows))
    queries = search.row_queries(images, positions)
    rows = neighbor_rows.grid_rows(
        queries, search.nearest(queries, images.bank, 2), images, 16
    )
    page = Page(pages.neighbor_page(rows, "<b>run</b>"))
    assert set(NASTY_NAMES) <= set(page.names)
    for name in NASTY_NAMES:
        assert f"{name}\n" in "".join(page.texts)
    allowed = {"html", "head", "meta", "title", "link", "style", "body", "h1"}
    allowed |= {"div", "figure", "img", "figcaption", "span", "p"}
    allowed |= {"a", "section", "h2", "nav"}
    assert {tag for tag, _ in page.tags} == allowed
    assert not any(n.startswith("on") for _, a in page.tags for n in a)
    sources = [a["src"] for tag, a in page.tags if tag == "img"]
    assert all(source.startswith("data:image/jpeg;") for source in sources)
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    links = [link for link in links if not link.startswith("#")]
    assert len(links) == len(sources)
    for link in links:
        address = urllib.parse.urlsplit(link)
        assert address.scheme == "file"
        assert pathlib.Path(urllib.parse.unquote(address.path)).exists()


@pytest.mark.exhaustive
def test_many_queries_are_paged(images, tmp_path):
    queries = search.row_queries(images, np.arange(26))
    rows = neighbor_rows.grid_rows(
        queries, search.nearest(queries, images.bank, 1), images, 8
    )
    path = tmp_path / "neighbors.html"
    pages.write(path, pages.neighbor_page([*rows, *rows[:15]], "run"))
    with open_page(path) as (browser, _):

        def shown():
            return [
                heading.text
                for heading in browser.find_elements("css selector", "h2")
                if heading.is_displayed()
            ]

        assert shown() == ["Queries 1 to 20 of 41"]
        assert len(browser.find_elements("css selector", "nav a")) == 3
        browser.find_element("link text", "41 to 41").click()
        assert shown() == ["Queries 41 to 41 of 41"]
        browser.back()
        assert shown() == ["Queries 1 to 20 of 41"]


def test_frames_say_whether_the_classes_agree(images):
    labels = images.bank.labels
    queries = search.row_queries(images, np.array([0]))
    same, other = np.flatnonzero(labels == labels[0])[1], labels.argmax()
    found = search.Neighbors(
        np.float32([[0.9, 0.8]]), np.array([[same, other]])
    )
    drawn = grid.draw(neighbor_rows.grid_rows(queries, found, images, 20))
    colors = {tuple(c) for c in drawn.reshape(-1, 3)}
    assert (26, 150, 65) in colors
    assert (215, 48, 39) in colors
    green = (drawn == (26, 150, 65)).all(axis=-1)
    red = (drawn == (215, 48, 39)).all(axis=-1)
    assert np.nonzero(green)[1].max() < np.nonzero(red)[1].min()


@pytest.mark.parametrize("kind", ["tsv", "json", "Python"])
def test_names_and_cosines_are_given_without_reading_results(
    run, images, monkeypatch, capsys, kind
):
    folder = images.config.data.images
    read, batches = [], run_images.RunImages.batches

    def counted(self, positions, *arguments):
        read.extend(self.bank.names[positions].tolist())
        return batches(self, positions, *arguments)

    monkeypatch.setattr(run_images.RunImages, "batches", counted)
    query = f"{folder}/cats/1.png"
    if kind == "Python":
        monkeypatch.chdir(f"{folder}/cats")
        query = "1.png"
        (names,), _ = tf_instdisc.Run(run.path).neighbors(query, 3)
        assert names[0] == "cats/1.png"
    else:
        command.main(
            options.FinishedRun(str(run.path)),
            command.NeighborsOptions(query, format=kind),
            options.MovedImages(),
        )
        assert "cats/1.png" in capsys.readouterr().out
    assert read == ["1.png"]


def test_lines_contain_names_with_tabs(images):
    text = tsv(["name", "score"], [["a\tb\n\\c", 1]])
    assert text == "name\tscore\na\\tb\\n\\\\c\t1\n"


def test_the_command_accepts_an_unseen_photograph(run, images, tmp_path):
    save_picture(tmp_path, "query.png", picture(2))
    result = commands.run(
        "neighbors",
        f"--run_dir={run.path}",
        f"--query={tmp_path / 'query.png'}",
        "--num_neighbors=3",
        "--format=json",
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["query"] == "query.png"
    assert found["neighbors"][0]["name"] == NASTY_NAMES[2]
    assert found["neighbors"][0]["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.exhaustive
def test_the_command_writes_pictures_of_a_folder(run, tmp_path):
    fill_folder(tmp_path / "new", ["cats/1.png", "собаки/2.png", "rest/3.png"])
    (tmp_path / "new" / "cats" / "broken.jpg").write_bytes(b"no image")
    result = commands.run(
        "neighbors",
        f"--run_dir={run.path}",
        f"--query={tmp_path / 'new'}",
        "--output=grid.png,grid.html",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "cats/broken.jpg" in result.stdout
    width, height = Image.open(tmp_path / "grid.png").size
    assert width > 10 * 64
    assert height > 3 * 64
    page = Page((tmp_path / "grid.html").read_text("utf-8"))
    assert len(page.names) == 3 * 11
    classes = [a["class"] for tag, a in page.tags if tag == "figure"]
    assert {"query", "right", "wrong", "unknown"} == set(classes)


def test_a_picture_shows_at_most_100_queries(run, tmp_path, capsys):
    fill_folder(tmp_path / "new", [f"{i}.png" for i in range(101)])
    path = str(tmp_path / "grid.png")
    command.main(
        options.FinishedRun(run_dir=str(run.path)),
        command.NeighborsOptions(
            query=str(tmp_path / "new"), output=(path,), num_neighbors=1
        ),
        options.MovedImages(),
    )
    found = capsys.readouterr().out
    assert f"{path} shows the first 100 of 101 queries\n" in found
    height = Image.open(path).height
    assert height < 101 * grid.PICTURE * 1.5


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("missing.jpg", "does not exist"),
        ("random:0", "at least 1"),
        (__file__, "cannot be decoded"),
    ],
)
def test_invalid_queries_are_refused(run, images, query, part):
    with pytest.raises(ValueError, match=part) as caught:
        search.parse_query(run, images, query, seed=0)
    assert query in str(caught.value)
