"""Environment of the tests: a CPU split into four logical devices."""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tf_instdisc.training.strategy import mirrored_cpus, split_cpu

# Before anything touches the device; strategies of the tests take two or four.
split_cpu(4)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests."""
    return mirrored_cpus(["CPU:0", "CPU:1"])


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

    path = str(tmp_path_factory.mktemp("models") / "pictures")
    options = saved_model.options_of(small_run, batch_sizes=(1, 4))
    saved_model.export_run(small_run, path, options)
    return path
