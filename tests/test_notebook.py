"""The notebook, from its first cell to its last."""

import pathlib
import re

import pytest

pytestmark = pytest.mark.slow

NOTEBOOK = (
    pathlib.Path(__file__).parent.parent / "notebooks" / "quickstart.ipynb"
)
NUM_PICTURES = 6


@pytest.fixture(scope="module")
def read():
    nbformat = pytest.importorskip("nbformat", reason="the extra 'test'")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    return notebook


def printed(notebook):
    """Returns the text of all outputs; anything but text and pictures fails."""
    outputs = [
        output for cell in notebook.cells for output in cell.get("outputs", [])
    ]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == NUM_PICTURES
    texts = [o for o in outputs if o.output_type == "stream"]
    assert len(pictures) + len(texts) == len(outputs)
    assert {o.name for o in texts} == {"stdout"}, texts
    text = "".join(o.text for o in texts)
    # Neither messages of TensorFlow nor bars that are drawn again.
    assert not re.search(r"(?i)warning|info:|\r|\x1b", text)
    return text


def fractions(text):
    return [int(n) for n in re.findall(r"of the same digit: (\d+)%", text)]


def test_the_kept_outputs_are_small_and_quiet(read):
    assert NOTEBOOK.stat().st_size < 150_000
    before, after = fractions(printed(read))
    assert after > before


@pytest.mark.exhaustive
def test_the_quickstart_runs(read, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the extra 'test'")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    monkeypatch.setenv("QUICKSTART_EPOCHS", "6")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    nbclient.NotebookClient(read, timeout=600, kernel_name="python3").execute()
    text = printed(read)
    assert fractions(text)[-1] > 60
    trained = re.search(r"\| trained encoder \| (0\.\d+)", text).group(1)
    assert float(trained) > 0.6
    # The served model names the neighbors.
    assert re.search(r"^\d/\d{4}\.png: \d/\d{4}\.png, ", text, re.MULTILINE)
