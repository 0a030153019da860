"""The examples of the public names, and the Python of the guides, are run."""

import inspect
import shutil

import keras
import numpy as np
import pytest

import tf_instdisc
from tests import documents, exported, labeled_run
from tests.finished_run import save_run
from tests.servers import KINDS, running
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.runs import opening
from tf_instdisc.runs.record import RunRecord

pytestmark = pytest.mark.slow

PUBLIC = tuple(tf_instdisc.__all__)
API = [page for page in documents.PAGES if page.startswith("docs/api/")]
# Blocks of README and docs that other tests run.
ELSEWHERE = {
    "README.md": 2,  # test_readme, test_load_elsewhere
    "docs/guides/keras.md": 1,  # test_readme: the first
    "docs/guides/embeddings.md": 5,  # test_stores
    "docs/guides/remote.md": 1,  # test_remote_runs
    "docs/guides/serving.md": 1,  # test_load_elsewhere
}
WITH_A_SERVER = ("export/README.md", "docs/api/serving_client.md")


def example_of(name):
    """The example in the docstring of a public name, or on its API page."""
    docstring = inspect.getdoc(getattr(tf_instdisc, name))
    found = documents.fenced(docstring, "python")
    for page in API:
        text = documents.text(page)
        _, _, section = text.partition(f"::: tf_instdisc.{name}\n")
        found += documents.fenced(section.partition("\n::: ")[0], "python")
    assert found, f"{name} has no example"
    return "\n".join(found)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """A folder with images, and runs of them."""
    root = tmp_path_factory.mktemp("workspace")
    labeled_run.fill_labeled_folder(root / "photos", 70)
    labeled_run.fill_labeled_folder(root / "photos_test", 8, seed=1)
    settings = from_flagfile(
        f"--images={root}/photos\n--test_images={root}/photos_test\n"
        "--image_size=16\n--objective=softmax\n--temperature=0.1\n"
    )
    run = opening.open_run(str(root / "runs/photos"), RunRecord(settings))
    save_run(run, labeled_run.small_encoder(), root / "photos")
    for name in ("cifar10", "digits"):
        shutil.copytree(root / "runs/photos", root / "runs" / name)
    shutil.copy(run.encoder, root / "encoder.keras")
    shutil.copy(root / "photos_test/ant/0.png", root / "PHOTO.jpg")
    return root


@pytest.fixture(scope="module")
def names():
    """What the examples use without defining it."""
    source, test_source = (
        tf_instdisc.array_source(
            exported.random_images(number, seed=number),
            np.arange(number) % 3,
        )
        for number in (210, 24)
    )
    model = tf_instdisc.InstanceDiscrimination(
        labeled_run.small_encoder(), source.num_instances, objective="softmax"
    )
    model.compile(optimizer="sgd")
    augmentation = tf_instdisc.Augmentation(image_size=16)
    return {
        "keras": keras,
        "np": np,
        "tf_instdisc": tf_instdisc,
        "source": source,
        "test_source": test_source,
        "model": model,
        "dataset": tf_instdisc.training_dataset(source, augmentation, 16, 50),
    }


@pytest.mark.exhaustive_variants(
    "Augmentation*",
    "FineTuneOptions",
    "Instance*",
    "KNN*",
    "LinearOptions",
    "Run",
    "SVMOptions",
    "embed",
    "evalua*",
    "save_run",
    "steps*",
    "train*",
)
@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_of_a_public_name_runs(
    name, workspace, names, tmp_path, monkeypatch
):
    monkeypatch.chdir(workspace)
    code = example_of(name)
    assert f"tf_instdisc.{name}" in code
    if name == "tfds_source":
        ours = f'"instdisc_digits", data_dir="{tmp_path}", split="train'
        code = documents.replaced(code, {'"cifar10", "train': ours})
    exec(compile(code, name, "exec"), dict(names))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "page",
    [
        page
        for page in documents.PAGES
        if page not in (*API, *WITH_A_SERVER)
        and len(documents.blocks(page, "python")) > ELSEWHERE.get(page, 0)
    ],
)
def test_the_python_of_a_page_runs(page, workspace, monkeypatch, names):
    monkeypatch.chdir(workspace)
    for code in documents.blocks(page, "python")[ELSEWHERE.get(page, 0) :]:
        exec(compile(code, page, "exec"), names)


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", WITH_A_SERVER)
def test_the_python_of_a_page_asks_a_server(
    page, small_model_dir, tmp_path, monkeypatch
):
    images = exported.random_images(2, seed=2)
    (tmp_path / "photo.jpg").write_bytes(exported.encode(images[0]))
    monkeypatch.chdir(tmp_path)
    with running(KINDS[0], small_model_dir) as server:
        for code in documents.blocks(page, "python"):
            code = code.replace("8500", str(server.grpc_port))
            code = code.replace("8501", str(server.rest_port))
            code = documents.replaced(code, {'"digits"': '"pictures"'})
            code = code.replace("deadline=10", "deadline=120")
            names = {"images": images}
            exec(compile(code, page, "exec"), names)
            assert len(names["found"]["names"])
