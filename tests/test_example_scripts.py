"""The scripts in `examples/`, each run as a user runs it."""

import pathlib
import runpy
import sys

import keras
import numpy as np
import pytest

import tf_instdisc
from tests import servers

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"
NUM_IMAGES = 16


def run_script(name, *arguments):
    before = sys.argv
    sys.argv = [name, *map(str, arguments)]
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder of two classes with one image twice, and a run on it."""
    work = tmp_path_factory.mktemp("examples")
    random = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        image = random.uniform(0, 255, [8, 8, 3]).repeat(10, 0).repeat(10, 1)
        folder = work / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(folder / f"{number}.png", image)
    first = work / "photos" / "cat" / "1.png"
    (work / "photos" / "dog" / "copy.png").write_bytes(first.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        run_script("own_backbone.py", "photos", "run", "1")
    return work


def test_own_backbone(work):
    run = tf_instdisc.Run(work / "run")
    assert len(run.load_bank().rows) == NUM_IMAGES + 1
    convolutions = [
        layer.filters
        for layer in run.load_encoder().layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert convolutions == [16, 32, 64]


def test_neighbors_of_photographs(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    run_script("neighbors_of_photographs.py", "photos", "photos/cat/1.png", "1")
    *_, first, second, third, _, _, _ = [
        "",
        *capsys.readouterr().out.split("\n"),
    ]
    found = [line.split("  ")[1] for line in (first, second)]
    assert sorted(found) == ["cat/1.png", "dog/copy.png"]
    assert first.startswith("1.000")
    assert not third.startswith("1.000")


def test_fine_tune(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    run_script("fine_tune.py", "run/encoder.keras", "photos", "1")
    classifier = keras.saving.load_model("classifier.keras")
    assert classifier.output_shape == (None, 2)
    assert "accuracy" in capsys.readouterr().out


def test_clean_a_dataset(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    run_script("clean_a_dataset.py", "run", "photos", "clean")
    assert "cat/1.png: dropped dog/copy.png" in capsys.readouterr().out
    kept = {
        path.relative_to("clean")
        for path in pathlib.Path("clean").rglob("*.png")
    }
    everything = {
        path.relative_to("photos")
        for path in pathlib.Path("photos").rglob("*.png")
    }
    assert everything - kept == {pathlib.Path("dog/copy.png")}


def test_ask_a_server(work, monkeypatch, capsys):
    monkeypatch.chdir(work)
    run_script("ask_a_server.py", "export", "run", "models/photos")
    assert "models/photos/1" in capsys.readouterr().out
    with servers.running("stand-in", str(work / "models" / "photos")) as server:
        url = f"http://localhost:{server.rest_port}"
        run_script("ask_a_server.py", "ask", url, "photos", "photos/cat/3.png")
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "1.000  cat/3.png"
