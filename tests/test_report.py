"""The report: its figures, and the page in a real browser."""

import pathlib
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tests import commands
from tests.browser import open_page
from tests.finished_run import NASTY_NAMES, fill_folder, make_run
from tf_instdisc.config.data import DataConfig
from tf_instdisc.config.run import RunConfig, from_flagfile
from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval import analysis, duplicates, neighbors
from tf_instdisc.retrieval.pages import charts, pages, run_page
from tf_instdisc.retrieval.votes import weighted_votes
from tf_instdisc.runs import checkpoints, images, opening
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.record import RunRecord

pytestmark = pytest.mark.slow

PLAIN_NAMES = [
    f"{kind}/{i}.png" for kind in ("cats", "собаки") for i in range(9)
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    fill_folder(root / "images", [*NASTY_NAMES, *PLAIN_NAMES])
    flags = "--seed=0\n--num_neighbors=5\n"
    run = make_run(root / "run", root / "images", flags)
    for epoch in (1, 2, 3):
        run.append_metrics(
            {
                "epoch": epoch,
                "step": epoch,
                "loss": 4.0 - epoch,
                "knn_top1": epoch / 10,
            }
        )
    checkpoints.write(
        run.checkpoints,
        tf.train.Checkpoint(),
        {"baselines": {"raw pixels": [0.125, 0.5]}},
        keep=1,
    )
    result = commands.run("report", f"--run_dir={run.path}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(run.report)
    return run.report


def test_the_page_loads_nothing_from_the_network(page):
    text = page.read_text("utf-8")
    assert page.stat().st_size < 5e6
    # The browser's console shows whether scripts request anything.
    text = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert not re.search(r"url\(\W?(?!data:)\w+:", text)
    for title in (
        "Run: run",
        "Accuracy of the kNN classifier",
        "Map",
        "Settings",
    ):
        assert f"{title}</h" in text
    assert "--num_neighbors</td><td>5<" in text
    assert "--temperature" in text


@pytest.mark.exhaustive_variants("desk")
@pytest.mark.parametrize(
    ("width", "dark"), [(1200, False), (390, True)], ids=["desk", "phone"]
)
def test_in_a_browser(page, width, dark):
    with open_page(page, width, dark=dark) as (browser, console):
        wait_for(browser, "return window.Bokeh && Bokeh.documents.length > 0")
        time.sleep(1)
        assert [m for m in console() if m["level"] != "INFO"] == []
        wide = browser.execute_script(
            "return document.documentElement.scrollWidth - window.innerWidth"
        )
        assert wide <= 0, "the page is wider than the window"
        color = browser.execute_script(
            "return getComputedStyle(document.body).backgroundColor"
        )
        assert color == ("rgb(22, 24, 27)" if dark else "rgb(255, 255, 255)")

        folded = browser.execute_script(
            "return document.querySelectorAll('.fold:not([open])').length"
        )
        assert folded == (3 if width < 640 else 0)

        # Links lead to their sections, and open them.
        for link in browser.find_elements("css selector", "nav a"):
            link.click()
            target = link.get_attribute("href").split("#")[1]
            top = browser.execute_script(
                f"return document.getElementById('{target}')"
                ".getBoundingClientRect().top"
            )
            assert -2 <= top < 1000

        assert not browser.find_elements("css selector", ".fold:not([open])")

        # Names are shown as they are, and none became an element.
        shown = browser.execute_script(
            "return [...document.images].map(i => i.alt)"
        )
        assert set(shown) <= {*NASTY_NAMES, *PLAIN_NAMES}
        assert len(set(shown) & set(NASTY_NAMES)) >= 3
        assert not browser.find_elements("css selector", "[onerror]")

        # A tap shows the folders of a name.
        caption = browser.find_element("css selector", "figcaption")
        name = caption.find_element("xpath", "..").get_attribute("title")
        assert name not in caption.text
        caption.click()
        assert name in caption.text

        # Hovering shows the picture and the name of each point.
        for name in NASTY_NAMES:
            text = hover(browser, name)
            assert name in text, name
        assert [m for m in console() if m["level"] != "INFO"] == []


def test_baselines_are_shown_beside_the_accuracy(page):
    text = page.read_text("utf-8")
    facts = dict(re.findall(r"<dt>(.*)</dt><dd>(.*)</dd>", text))
    assert facts["kNN top-1"] == "30.0%"
    assert facts["kNN, raw pixels"] == "12.5%"


def test_confusions_are_numbers(page):
    text = page.read_text("utf-8")
    table = text.partition('<table class="confusion">')[2]
    table = table.partition("</table>")[0]
    counts = [int(n) for n in re.findall(r">(\d+)</td>", table)]
    assert sum(counts) == len([*NASTY_NAMES, *PLAIN_NAMES])


def wait_for(browser, script):
    for _ in range(100):
        if browser.execute_script(script):
            return
        time.sleep(0.1)
    raise AssertionError(f"never true: {script}")


_POINT = """
const name = arguments[0];
document.getElementById('map').scrollIntoView();
for (const root of Bokeh.index.roots) {
  const source = root.model.renderers?.[0]?.data_source;
  const names = source?.data.name;
  if (!names) continue;
  const i = [...names].indexOf(name);
  const box = root.canvas_view.el.getBoundingClientRect();
  const x = root.frame.x_scale.compute(source.data.x[i]);
  const y = root.frame.y_scale.compute(source.data.y[i]);
  return [box.left + x, box.top + y];
}
"""
_TOOLTIP = """
const found = [];
const walk = (node) => {
  if (node.shadowRoot) walk(node.shadowRoot);
  for (const child of node.children ?? []) walk(child);
  if (node.classList?.contains('map-picture')) {
    const style = getComputedStyle(node);
    if (style.backgroundImage.startsWith('url("data:image/jpeg') &&
        node.getBoundingClientRect().width > 50)
      found.push(node.parentNode.textContent);
  }
};
walk(document.body);
return found.join('|');
"""


def hover(browser, name):
    x, y = browser.execute_script(_POINT, name)
    for step in (-3, 0):
        browser.execute_cdp_cmd(
            "Input.dispatchMouseEvent",
            {"type": "mouseMoved", "x": x + step, "y": y},
        )
    for _ in range(20):
        text = browser.execute_script(_TOOLTIP)
        if name in text:
            break
        time.sleep(0.1)
    return text


@pytest.mark.exhaustive
def test_a_run_without_labels_metrics_and_images(tmp_path):
    fill_folder(tmp_path / "images", [f"{i}.png" for i in range(12)])
    run = make_run(tmp_path / "run", tmp_path / "images")
    shutil.rmtree(tmp_path / "images")
    page = page_of(run, max_points=10)
    assert "10 of the images shown are missing" in page
    assert "Of 12 images" in page
    sizes = re.findall(r"</i>cluster \d+:\s*(\d+) images", page)
    assert sum(map(int, sizes)) == 10
    assert "Confusions" not in page
    assert 'id="curve"' not in page


def page_of(run, **options):
    path = run_page.write_report(run, images.open_images(run), **options)
    return pathlib.Path(path).read_text("utf-8")


def bank_of(size=60, classes=3):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(size, 6)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Bank(
        rows,
        np.arange(size),
        np.array([f"{i}.png" for i in range(size)]),
        rng.integers(0, classes, size),
        tuple("abc"[:classes]),
    )


def test_each_row_is_classified_by_the_others():
    bank = bank_of()
    positions = np.array([3, 10, 59])
    votes = analysis.classify_rows(bank, positions, 7, 0.1)
    for i, position in enumerate(positions):
        others = np.setdiff1d(np.arange(60), position)
        scores, found = neighbors.top_k(
            bank.rows[[position]], bank.rows[others], 7
        )
        tally = weighted_votes(scores, bank.labels[others][found], 3, 0.1)[0]
        assert votes.predicted[i] == tally.argmax()
        assert votes.nearest[i] == pytest.approx(scores[0, 0])
        own = tally[bank.labels[position]] / tally.sum()
        assert votes.own_fraction[i] == pytest.approx(own)


@pytest.mark.parametrize("spread", [0, 1e-7, 2e-6])
def test_a_bank_of_equal_rows_has_a_map(spread):
    """In a subprocess, which t-SNE would kill."""
    code = (
        "import sys, numpy as np\n"
        "from tf_instdisc.retrieval.analysis import map_of_all\n"
        "rng = np.random.default_rng(0)\n"
        "rows = 0.25 + float(sys.argv[1]) * rng.random([200, 16])\n"
        "places = map_of_all(rows.astype(np.float32))\n"
        "assert places.shape == (200, 2) and np.isfinite(places).all()\n"
    )
    command = [sys.executable, "-c", code, str(spread)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("classes", (1, 3))
def test_confusions_are_counted(classes):
    bank = bank_of(classes=classes)
    votes = analysis.classify_rows(bank, np.arange(60), 7, 0.1)
    expected = np.zeros([classes, classes], int)
    for label, predicted in zip(bank.labels, votes.predicted, strict=True):
        expected[label, predicted] += 1
    np.testing.assert_array_equal(
        analysis.confusion_matrix(bank, votes), expected
    )


@pytest.mark.exhaustive
def test_a_thousand_classes_leave_the_page_small(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    text = f"--images={tmp_path / 'missing'}\n--image_size=16\n"
    run = opening.open_run(
        str(tmp_path / "run"), RunRecord(from_flagfile(text))
    )
    run.save_bank(
        Bank(
            rows,
            np.arange(1000),
            np.array([f"class {i}/{i}.jpg" for i in range(1000)]),
            np.arange(1000),
            tuple(f"class {i}" for i in range(1000)),
        )
    )
    page = page_of(run, max_points=100)
    assert len(page) < 3e6
    assert "Of 1,000 classes,\nthe 40 with" in page
    # Colors would stand for many classes each: clusters have their own.
    assert "cluster 12</span>" in page
    assert "class 999</span>" not in page


def test_the_most_confused_classes_are_chosen():
    matrix = np.array([[9, 0, 0], [0, 5, 3], [1, 0, 7]])
    assert analysis.most_confused(matrix, 2).tolist() == [1, 2]
    assert analysis.most_confused(matrix, 9).tolist() == [0, 1, 2]


def test_pictures_are_at_their_place_in_the_sheet():
    pictures = np.arange(5, dtype=np.uint8)[:, None, None, None]
    pictures = np.broadcast_to(pictures, (5, 4, 4, 3))
    sheet = pages.sheet(pictures)
    assert sheet.shape == (12, 12, 3)
    assert (sheet[4:8, 4:8] == 4).all()
    assert (sheet[:4, 8:] == 2).all()
    assert (sheet[8:] == 0).all()


def test_only_what_changes_has_a_curve():
    metrics = [
        {"epoch": 1, "loss": float("nan"), "weight_growth": 1.0},
        {"epoch": 2, "loss": 0.9999999876, "weight_growth": 1.001},
        {"epoch": 3, "loss": 0.5, "weight_growth": 1.0},
    ]
    assert charts.curve(metrics, "knn_top1", "kNN") is None
    assert charts.curve(metrics, "weight_growth", "growth") is None
    chart = charts.curve(metrics, "loss", "loss")
    assert chart.renderers[0].data_source.data["y"] == (1.0, 0.5)


def test_a_sample_without_near_duplicates_is_called_a_sample(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run_page, "_DUPLICATES_UP_TO", 10)
    fill_folder(tmp_path / "images", PLAIN_NAMES)
    run = make_run(tmp_path / "run", tmp_path / "images", "--seed=0\n")
    page = page_of(run, max_points=12)
    assert "0 images in 0 groups" in page
    assert "instdisc-duplicates compares all" in page


def test_the_closest_near_duplicates_come_first(tmp_path):
    angles = np.radians([0, 10, 20, 30, 100, 101, 200])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    names = np.array([f"{int(a)}.png" for a in np.round(np.degrees(angles))])
    bank = Bank(rows, np.arange(7), names, np.full(7, -1))
    data = DataConfig(images=str(tmp_path), image_size=8)
    run_images = images.RunImages(bank, RunConfig(data=data))
    found = duplicates.find_duplicates(run_images, 0.98)
    shown = [sorted(member.name for member in g) for g in found.groups]
    assert shown[0] == ["100.png", "101.png"]
    # No chain is a group: 0 and 20 are not near each other.
    assert shown[1:] == [
        ["0.png", "10.png"],
        ["10.png", "20.png"],
        ["20.png", "30.png"],
    ]


def test_a_report_needs_two_images(tmp_path):
    fill_folder(tmp_path / "images", ["a.png"])
    run = make_run(tmp_path / "run", tmp_path / "images")
    with pytest.raises(UsageError, match="at least 2 images"):
        run_page.write_report(run, images.open_images(run))
