"""The notebook, from its first cell to its last."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def test_the_quickstart_runs(monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="the extra 'test'")
    nbformat = pytest.importorskip("nbformat", reason="the extra 'test'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("QUICKSTART_EPOCHS", "6")
    notebook = nbformat.read(ROOT / "notebooks" / "quickstart.ipynb", 4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3"
    ).execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    accuracies = re.search(r"kNN top-1: \[(.*)\]", printed).group(1)
    assert float(accuracies.split(", ")[-1]) > 0.6
    fractions = re.findall(r"neighbors of the query's class: (\d+)%", printed)
    assert len(fractions) == 2, "in the bank, and of the served model"
    assert all(int(fraction) > 40 for fraction in fractions)
    assert "b'instdisc_digits/train/" in printed
    assert "| `neighbors_bytes` |" in printed
    assert re.search(
        r"kNN while training, last measured: knn_top1 0\.\d+", printed
    )
    kinds = {
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", {})
    }
    assert "image/png" in kinds
