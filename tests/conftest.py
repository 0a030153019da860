"""Environment of the tests: a CPU split into four logical devices."""

import gc
import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tf_instdisc.training.strategy import mirrored_cpus, split_cpu

# Before anything touches the device; strategies of the tests take two or four.
split_cpu(4)

# The graphs of thousands of tests make each full collection take a second.
gc.freeze()
gc.set_threshold(50_000, 20, 50)


# Files of tests that train, kill, or start processes many times over.
_SLOW = {
    "test_benchmarks",
    "test_cli",
    "test_damage",
    "test_data_flags",
    "test_detection",
    "test_duplicates",
    "test_embed_folder",
    "test_evaluate_command",
    "test_evaluation",
    "test_exit_statuses",
    "test_export",
    "test_export_cli",
    "test_export_folder",
    "test_fine_tuning",
    "test_finish",
    "test_first_format",
    "test_hostile_checkpoints",
    "test_hosts",
    "test_interrupt",
    "test_kills",
    "test_load_elsewhere",
    "test_lock",
    "test_notebook",
    "test_plan",
    "test_precision",
    "test_recipes",
    "test_replicas",
    "test_report",
    "test_reproduce",
    "test_resume",
    "test_serving_client",
    "test_update",
    "test_voc",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in _SLOW:
            item.add_marker(pytest.mark.slow)


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
