"""Every command line of README and docs is run, or is listed with a reason."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request

import fsspec
import numpy as np
import pytest

from tests import commands, documents, page_commands
from tests.buckets import s3_server
from tests.documents import PAGES, ROOT
from tests.servers import free_port
from tests.test_hosts import wait
from tf_instdisc.runs.directory import RunDirectory

GPUS = "docs/guides/several_gpus.md"
# Parts of blocks that are run as one script, and the test that does so.
SCRIPTS = {
    "benchmarks.accelerator": "test_a_recipe_is_trained_with_jax",
    "export TF_CONFIG='": "test_two_hosts_share_a_run",
    "#SBATCH": "test_the_job_of_a_scheduler_names_the_hosts",
    "openssl": "test_export_folder.py",
}
# Beginnings of lines, and the test that runs them.
OTHERS = {
    r"tensorboard ": "test_tensorboard_finds_the_runs",
    r"eval ": "test_the_completion_is_loaded",
    r"python3 smoke_client.py ": "test_export_folder.py",
    r".* --runner=DirectRunner": "test_embed_beam.py",
}
# Beginnings of lines that no test runs, and why.
NOT_RUN = {
    r"python3 -m venv |(\S*/)?pip |git clone ": "installs from the network",
    r"make ": "installs an environment, and most of them run these tests",
    r"cd export && .*docker ": "needs Docker",
    r"curl .*/monitoring": "only TF Serving itself has metrics",
    r".*--init_encoder=keras\.applications": (
        "Keras downloads 95 MB of weights; test_initial_encoder goes without"
    ),
}


def lines_by_page():
    """The lines that are not listed, in their order, by page.

    A line that differs from one of an earlier page in the name of the run only
    is left out: the page then finds such a run.
    """
    listed = re.compile("|".join([*OTHERS, *NOT_RUN]))
    found, seen = {}, set()
    for page in PAGES:
        codes = documents.blocks(page, "sh")
        codes = [c for c in codes if not any(part in c for part in SCRIPTS)]
        for line in documents.lines("\n".join(codes)):
            same = re.sub(r"(runs|models)/\w+", r"\1/NAME", line)
            same = same.replace("instdisc-", "instdisc ")
            is_run = same in seen and "convert" not in line
            if not is_run and not listed.match(line):
                found.setdefault(page, []).append(line)
            seen.add(same)
    return found


LINES = lines_by_page()


def test_no_line_is_forgotten():
    for lines in LINES.values():
        for line in lines:
            # `run_line` knows these programs only.
            assert re.match(r"instdisc(-\w+)?( |$)|curl ", line), line
    blocks = [code for page in PAGES for code in documents.blocks(page, "sh")]
    for part in SCRIPTS:
        assert any(part in code for code in blocks), part
    lines = [line for code in blocks for line in documents.lines(code)]
    for beginning in (*OTHERS, *NOT_RUN):
        assert any(re.match(beginning, line) for line in lines), beginning
    for test in (*SCRIPTS.values(), *OTHERS.values()):
        assert test in globals() or (ROOT / "tests" / test).exists(), test


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workspace")
    page_commands.fill(folder)
    return folder


@pytest.fixture
def folder(workspace, tmp_path):
    """A copy of the workspace, in which a test may write."""
    return shutil.copytree(workspace, tmp_path / "folder")


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", LINES)
def test_the_commands_of_a_page_run(page, folder, request):
    if "s3://bucket/" in " ".join(LINES[page]):
        request.getfixturevalue("bucket")
    for line in LINES[page]:
        page_commands.run_line(line, folder)


@pytest.fixture
def bucket(folder, monkeypatch):
    """S3 with the photographs at `s3://bucket/photos`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    with s3_server() as url:
        fs, path = fsspec.core.url_to_fs(url)
        fs.put(f"{folder}/photos/", f"{path}/photos/", recursive=True)
        yield


@pytest.mark.exhaustive
def test_the_plan_of_the_guide_is_the_one_that_is_printed(tmp_path):
    page = "docs/guides/large_collections.md"
    (line,) = [line for line in documents.commands(page) if " plan " in line]
    result = commands.run(*line.split(), cwd=tmp_path)
    (shown,) = documents.blocks(page, "text")
    assert result.stdout.startswith(shown)


# === Scripts ===


def script(page, part):
    (code,) = [code for code in documents.blocks(page, "sh") if part in code]
    return code


def bash(code, folder, programs, **environment):
    """Starts a script that finds some programs, which are scripts too."""
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    for name, content in programs.items():
        (place / name).write_text(f"#!/bin/bash\n{content}\n")
        (place / name).chmod(0o755)
    path = f"{place}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-c", code],
        cwd=folder,
        env={
            **{**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
            **{"TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


PYTHON = {
    "python": f'exec {sys.executable} "$@"',
    "instdisc": f'exec {sys.executable} -m tf_instdisc "$@"',
}


def test_the_completion_is_loaded(tmp_path):
    (line,) = documents.lines(script("docs/start.md", "completion"))
    process = bash(f"{line}; complete -p instdisc", tmp_path, PYTHON)
    said = process.communicate(timeout=60)[0]
    assert said == "complete -o default -F _instdisc instdisc\n"


@pytest.mark.exhaustive
def test_tensorboard_finds_the_runs(folder):
    (line,) = documents.lines(script("README.md", "tensorboard --"))[-1:]
    shutil.copytree(folder / "run", folder / "runs" / "photos")
    port = free_port()
    ours = {"tensorboard": f'exec {sys.executable} -m tensorboard.main "$@"'}
    with bash(f"exec {line} --port={port}", folder, ours) as process:
        while "http://" not in process.stdout.readline():
            assert process.poll() is None
        found, end = [], time.monotonic() + 60
        while "photos/tensorboard/train" not in found:
            assert time.monotonic() < end, found
            url = f"http://localhost:{port}/data/runs"
            with urllib.request.urlopen(url) as answer:
                found = json.load(answer)
            time.sleep(0.1)
        process.terminate()


@pytest.mark.exhaustive
def test_a_recipe_is_trained_with_jax(folder):
    pytest.importorskip("jax", reason="jax is not installed")
    code = script("docs/guides/cifar10.md", "benchmarks.accelerator")
    small = " --data_dir=tfds --width=2 --epochs=1 --batch_size=8"
    lines = [
        line + small * ("python " in line) for line in documents.lines(code)
    ]
    process = bash("\n".join(["set -e", *lines]), folder, PYTHON)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 0, said
    bank = RunDirectory(folder / "runs" / "night").load_bank()
    np.testing.assert_allclose(np.linalg.norm(bank.rows, axis=1), 1, atol=1e-3)


@pytest.mark.exhaustive
def test_two_hosts_share_a_run(folder):
    code = documents.replaced(
        script(GPUS, "export TF_CONFIG='"),
        {
            "10.0.0.1:2222": f"127.0.0.1:{free_port()}",
            "10.0.0.2:2222": f"127.0.0.1:{free_port()}",
            "/shared/runs": "runs",
        },
    )
    code = "\n".join(map(page_commands.made_small, documents.lines(code)))
    codes, outputs = wait(
        [
            bash(code.replace('"index": 0', f'"index": {i}'), folder, PYTHON)
            for i in range(2)
        ]
    )
    assert codes == [0, 0], outputs
    run = RunDirectory(folder / "runs" / "r50")
    assert len(run.load_bank().rows) == 24
    assert len(run.read_metrics()) == 1


# Stands in for a training that is stopped.
STOPPED = """
echo "$@" > arguments
printf '%s' "$TF_CONFIG" > task.json
exit 75
"""
SLURM = {
    "srun": 'SLURM_PROCID=1 exec "$@"',
    "scontrol": """
case $1 in
  show) printf 'trainer-0.trainer\\ntrainer-1.trainer\\n' ;;
  requeue) echo "$2" > requeued ;;
esac
""",
}


def kubernetes_script():
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the manifest")
    (manifest,) = documents.blocks(GPUS, "yaml")
    spec = yaml.safe_load(manifest)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["command"] == ["bash", "-c"]
    return container["args"][0]


@pytest.mark.parametrize("scheduler", ["slurm", "kubernetes"])
def test_the_job_of_a_scheduler_names_the_hosts(scheduler, tmp_path):
    is_slurm = scheduler == "slurm"
    code = script(GPUS, "#SBATCH") if is_slurm else kubernetes_script()
    process = bash(
        code,
        tmp_path,
        {"instdisc": STOPPED, **SLURM},
        SLURM_JOB_NODELIST="trainer-[0-1]",
        SLURM_JOB_ID="7",
        JOB_COMPLETION_INDEX="1",
    )
    said = process.communicate(timeout=60)[0]
    assert not said
    assert json.loads((tmp_path / "task.json").read_text()) == {
        "cluster": {
            "worker": ["trainer-0.trainer:2222", "trainer-1.trainer:2222"]
        },
        "task": {"type": "worker", "index": 1},
    }
    assert (tmp_path / "arguments").read_text().split() == [
        *("train", "--recipe=imagenet_resnet50"),
        *("--distribution=multi_worker", "--run_dir=/shared/runs/r50"),
    ]
    if is_slurm:
        assert (tmp_path / "requeued").read_text() == "7\n"
    else:
        assert process.returncode == 75
