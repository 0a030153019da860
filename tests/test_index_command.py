"""`instdisc-index` and `instdisc-neighbors --index`."""

import contextlib
import json
import shutil
import subprocess
import sys

import faiss
import numpy as np
import pytest
from pyarrow import parquet

from tests import commands
from tests.finished_run import fill_folder, make_run
from tf_instdisc.cli import neighbors
from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval import neighbor_rows
from tf_instdisc.retrieval import queries as search
from tf_instdisc.retrieval.neighbors import top_k
from tf_instdisc.runs import images as run_images
from tf_instdisc.runs import opening
from tf_instdisc.runs.bank import Bank
from tf_instdisc.serving import index_directory
from tf_instdisc.serving.embed_folder import embed_folder
from tf_instdisc.serving.embedding_file import table_of
from tf_instdisc.serving.options import INDEX_KINDS, IndexOptions

pytestmark = pytest.mark.slow

NAMES = [f"{kind}/é{i}.png" for kind in ("cats", "dogs") for i in range(15)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads of faiss wait for each other in loops on busy cores."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, its folder `images`, and an index of the run."""
    place = tmp_path_factory.mktemp("index")
    fill_folder(place / "images", NAMES)
    make_run(place / "run", place / "images")
    return place


def _rows(number, seed=0):
    centers = np.random.default_rng(7).normal(size=[30, 16])
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, 30, number)]
    rows = (rows + rng.normal(size=rows.shape)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", INDEX_KINDS)
def test_an_index_reaches_its_stated_recall(kind, tmp_path):
    rows, queries = _rows(3000), _rows(200, seed=1)
    names = np.array([f"é{i}" for i in range(len(rows))])
    ids = np.arange(len(rows)) * 10
    bank = Bank(rows, ids, names, np.full(len(rows), -1))
    target = 0.8 if kind == "ivfpq" else 0.95
    options = IndexOptions(kind=kind, num_neighbors=10, target_recall=target)
    output = str(tmp_path / "index")
    index_directory.write_index(bank, output, options)
    index = index_directory.open_index(output)
    facts = index.facts
    assert (facts.kind, facts.num_rows, facts.dim) == (kind, 3000, 16)
    assert facts.recall >= target
    scores, found, found_names = index.search(queries, 10)
    assert found_names.tolist() == names[found // 10].tolist()
    _, exact = top_k(queries, rows, 10)
    hits = [
        len(np.intersect1d(a, b))
        for a, b in zip(found, exact * 10, strict=True)
    ]
    assert np.mean(hits) / 10 >= (1 if kind == "exact" else target - 0.05)
    cosines = np.einsum("bkd,bd->bk", rows[found // 10], queries)
    np.testing.assert_allclose(
        scores, cosines, atol=0.15 if kind == "ivfpq" else 1e-5
    )


def test_faiss_alone_opens_its_file(tmp_path):
    rows = _rows(1500)
    ids = np.arange(len(rows))
    bank = Bank(rows, ids, ids.astype(str), np.full(len(rows), -1))
    path = index_directory.write_index(
        bank, str(tmp_path), IndexOptions(kind="hnsw")
    )
    code = (
        "import faiss, sys, numpy as np\n"
        "index = faiss.read_index(sys.argv[1] + '/index.faiss')\n"
        "names = np.load(sys.argv[1] + '/instances.npz')['names']\n"
        "query = index.reconstruct(7)[None]\n"
        "print(names[index.search(query, 1)[1][0, 0]])\n"
        "print(index.hnsw.efSearch)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, path],
        capture_output=True,
        text=True,
        check=True,
    )
    efforts = index_directory.read_facts(path).reads
    assert result.stdout.split() == ["7", str(efforts)]


@pytest.mark.exhaustive
def test_neighbors_in_an_index_of_the_run(place, tmp_path):
    run = opening.load(str(place / "run"))
    images = run_images.open_images(run)
    options = IndexOptions(num_partitions=4, target_recall=0.99)
    output = str(tmp_path / "index")
    digest = run.encoder_digest()
    index_directory.write_index(images.bank, output, options, digest)
    result = commands.run(
        *("neighbors", f"--run_dir={run.path}", f"--index={output}"),
        *("--query=random:3", "--format=json"),
    )
    assert result.returncode == 0, result.stderr
    queries = search.random_queries(images, 3)
    rows = neighbor_rows.grid_rows(
        queries, search.nearest(queries, images.bank, 10), images
    )
    assert result.stdout == neighbor_rows.neighbors_json(rows)

    index = index_directory.open_index(output)
    assert index.search(queries.images.bank.rows, 20)[0].shape == (3, 20)
    with pytest.raises(ValueError, match="returns 20 neighbors"):
        index.search(queries.images.bank.rows, 21)


@pytest.mark.exhaustive
def test_neighbors_in_an_index_of_embeddings(place, tmp_path):
    file, output = tmp_path / "embedded.npz", tmp_path / "index"
    of_run = f"--run_dir={place / 'run'}"
    for step in (
        ("embed", of_run, f"--images={place / 'images'}", f"--output={file}"),
        ("index", f"--embeddings={file}", f"--output={output}", "--kind=exact"),
    ):
        result = commands.run(*step)
        assert result.returncode == 0, result.stderr
    assert "30 rows of 32 numbers, exact, recall@20 1.000" in result.stdout
    query = place / "images" / NAMES[3]
    result = commands.run(
        *("neighbors", of_run, f"--index={output}", f"--query={query}"),
        *(f"--images={place / 'images'}", "--format=json"),
        "--num_neighbors=2",
    )
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    nearest = json.loads(line)["neighbors"]
    assert nearest[0]["name"] == NAMES[3]
    assert nearest[0]["score"] == pytest.approx(1, abs=1e-4)
    assert len(nearest) == 2


@pytest.mark.parametrize("ending", ["npz", "parquet"])
@pytest.mark.parametrize(
    ("source", "encoder"), [("encoder 12ab", "12ab"), ("SavedModel 12ab", "")]
)
def test_embeddings_are_read_from_the_file_of_a_folder(
    place, tmp_path, ending, source, encoder
):
    rows = np.random.default_rng(0).normal(size=[len(NAMES), 4])
    rows = rows.astype(np.float32)

    def embedder(contents):
        assert len(contents) == len(rows)
        return {"embedding": rows, "valid": np.ones(len(rows), bool)}

    file = str(tmp_path / f"embedded.{ending}")
    embed_folder(str(place / "images"), file, embedder, source, batch_size=64)
    bank, found = index_directory.read_embeddings(file)
    assert found == encoder
    assert bank.names.tolist() == sorted(NAMES)
    assert bank.instance_ids.tolist() == list(range(len(NAMES)))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(bank.rows, rows / norms, rtol=1e-5)


def test_rows_that_another_encoder_embedded_are_refused(place, tmp_path):
    run = opening.load(str(place / "run"))
    bank = run.load_bank()
    for encoder, is_accepted in (
        (run.encoder_digest(), True),
        ("", True),  # It may be an export of the run.
        ("12ab", False),
    ):
        index_directory.write_index(
            bank, str(tmp_path), IndexOptions(kind="exact"), encoder=encoder
        )
        index = index_directory.open_index(str(tmp_path))
        outcome = contextlib.nullcontext()
        if not is_accepted:
            outcome = pytest.raises(UsageError, match="of another encoder")
        with outcome:
            neighbors._require_same_encoder("index", index, run, bank)


def test_rows_of_several_models_are_refused(tmp_path):
    for source in ("encoder 1", "encoder 2"):
        ids = np.arange(2)
        table = table_of(ids, ["a", "b"], np.eye(2, dtype=np.float32), source)
        parquet.write_table(table, tmp_path / f"{source}.parquet")
    with pytest.raises(UsageError, match="rows are of 2 models"):
        index_directory.read_embeddings(str(tmp_path))


def _bank(rows):
    ids = np.arange(len(rows))
    return Bank(rows, ids, ids.astype(str), np.full(len(rows), -1))


def test_rows_that_a_graph_does_not_reach_are_found(tmp_path):
    rows = np.concatenate([np.repeat(_rows(1), 1500, axis=0), _rows(500)])
    output = str(tmp_path)
    index_directory.write_index(_bank(rows), output, IndexOptions(kind="hnsw"))
    query = rows[1600:1601]
    scores, ids, _ = index_directory.open_index(output).search(query, 1000)
    assert len(np.unique(ids)) == 1000
    expected = np.sort(rows @ query[0])[::-1][:1000]
    np.testing.assert_allclose(scores[0], expected, atol=1e-5)


def test_a_bank_without_rows_is_refused(tmp_path):
    with pytest.raises(UsageError, match="at least one row"):
        index_directory.write_index(
            _bank(np.empty([0, 4], np.float32)), str(tmp_path), IndexOptions()
        )


@pytest.mark.parametrize("size", [0, 100])
def test_a_damaged_file_of_embeddings_is_refused(tmp_path, size):
    path = tmp_path / "embedded.npz"
    np.savez(path, names=np.array(["a"]), embeddings=np.ones([1, 4]))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UsageError, match="cannot be read"):
        index_directory.read_embeddings(str(path))


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (3, np.ones([4, 2])),
        (5, np.ones([4, 2])),
        (4, np.ones([4])),
        (4, np.diag([1, 1, np.nan, 1])),
    ],
    ids=["few names", "many names", "no matrix", "NaN"],
)
def test_embeddings_that_do_not_fit_are_refused(tmp_path, names, rows):
    path = tmp_path / "embedded.npz"
    names = np.array([f"{i}.png" for i in range(names)])
    np.savez(path, names=names, embeddings=rows)
    with pytest.raises(UsageError, match="finite embedding of each image"):
        index_directory.read_embeddings(str(path))


@pytest.mark.exhaustive
def test_an_index_of_earlier_rows_is_refused(place, tmp_path):
    shutil.copytree(place, tmp_path / "copy")
    of_run = f"--run_dir={tmp_path / 'copy' / 'run'}"
    images = f"--images={tmp_path / 'copy' / 'images'}"
    output = str(tmp_path / "index")
    search = (
        *("neighbors", of_run, images, f"--index={output}"),
        *("--query=random:2", "--format=tsv"),
    )
    build = ("index", of_run, f"--output={output}", "--kind=exact")
    for step in (build, search):
        assert commands.run(*step).returncode == 0
    path = tmp_path / "copy" / "images" / "added.png"
    shutil.copy(tmp_path / "copy" / "images" / NAMES[0], path)
    assert commands.run("update", of_run, images).returncode == 0
    result = commands.run(*search)
    assert result.returncode == 2
    assert "built before the run was updated" in result.stderr
    for step in (build, search):
        assert commands.run(*step).returncode == 0


@pytest.mark.parametrize("text", ['{"kind": ', '{"kind": "exact", "new": 1}'])
def test_a_damaged_description_is_refused(tmp_path, text):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(UsageError, match="Build it again"):
        index_directory.open_index(str(tmp_path))
