"""Environment of the tests: a CPU split into four logical devices."""

import collections
import fnmatch
import gc
import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tests import commands
from tf_instdisc.method.encoders import resnet
from tf_instdisc.training.strategy import mirrored_cpus, split_cpu

# This must come before any use of the device; the tests use two or four
# replicas.
split_cpu(4)

# The graphs of thousands of tests make each full collection take a second.
gc.freeze()
gc.set_threshold(50_000, 20, 50)


def pytest_configure(config):
    # Most graphs run once or twice, for which optimizing them takes longer than
    # running them. Commands in processes of their own still optimize theirs.
    if "not exhaustive" in config.option.markexpr:
        os.environ[commands.PLAIN_GRAPHS] = "1"
        commands.use_plain_graphs()


def pytest_collection_modifyitems(items):
    # Both processes end at about the same time if long tests start first.
    files = collections.Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            item.get_closest_marker("slow") is None,
            -files[item.path],
        )
    )
    for item in items:
        for mark in item.iter_markers("exhaustive_variants"):
            variant = item.name.partition("[")[2].removesuffix("]")
            if any(fnmatch.fnmatchcase(variant, name) for name in mark.args):
                item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests."""
    return mirrored_cpus(["CPU:0", "CPU:1"])


@pytest.fixture(scope="module")
def shallow_resnet18():
    """Halves the blocks of ResNet-18, for tests of the code around it."""
    with pytest.MonkeyPatch.context() as patch:
        shallow = ("basic", (1, 1, 1, 1))
        patch.setitem(resnet.STAGES, "resnet18", shallow)
        yield


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A run with a small untrained encoder; nobody writes into it."""
    from tests import exported

    path = tmp_path_factory.mktemp("small_run") / "run"
    return exported.make_run(path, width=4)


@pytest.fixture(scope="session")
def small_model_dir(small_run, tmp_path_factory):
    """Version 1 of the small run, as model `pictures`."""
    from tf_instdisc.serving import saved_model
    from tf_instdisc.serving.options import ExportOptions

    path = str(tmp_path_factory.mktemp("models") / "pictures")
    options = ExportOptions(batch_sizes=(1, 4))
    saved_model.export_run(small_run, path, options)
    return path
