"""instdisc-plan: prints what a run will need, without running anything."""

import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli import train
from tf_instdisc.cli.flag_groups import data, encoder, optimization, run
from tf_instdisc.cli.launch import launch
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.errors import UsageError
from tf_instdisc.training import plan

_SUMMARY = """
Prints what a run will need: bank, memory of a step, checkpoints, steps. It
takes the flags of instdisc-train, and runs nothing.

  instdisc-plan --flagfile=flags/imagenet_resnet50.flags --run_dir=runs/r50
"""

NUM_INSTANCES = flags.DEFINE_integer(
    "num_instances",
    None,
    "Training images; by default counted in --images, or read from what TFDS "
    "has prepared in --data_dir.",
    lower_bound=2,
)
REPLICAS_PER_HOST = flags.DEFINE_integer(
    "replicas_per_host",
    None,
    "GPUs of each host; by default those of this one.",
    lower_bound=1,
)
DEVICE_GIB = flags.DEFINE_float(
    "device_gib", None, "Memory of a GPU; by default that of this host's."
)
HOST_GIB = flags.DEFINE_float(
    "host_gib", None, "Memory of a host; by default that of this one."
)


def main() -> None:
    """Entry point of `instdisc-plan`."""
    launch(_plan, _SUMMARY, (sys.modules[__name__], *train.GROUPS))


def _plan() -> None:
    gpus = _gpu_bytes()
    one_device = run.DISTRIBUTION.value == "one_device"
    replicas = REPLICAS_PER_HOST.value or (1 if one_device else len(gpus) or 1)
    device_memory = gpus[0] if gpus else None
    if DEVICE_GIB.value:
        device_memory = int(DEVICE_GIB.value * plan.GIB)
    host_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if HOST_GIB.value:
        host_memory = int(HOST_GIB.value * plan.GIB)
    num_instances = NUM_INSTANCES.value or _count_images()
    image_size = data.IMAGE_SIZE.value
    stem = encoder.STEM.value or choices.default_stem(image_size)
    names = (
        "encoder",
        "width",
        "embedding_dim",
        "objective",
        "num_negatives",
        "negatives",
        "bank_dtype",
        "bank_placement",
        "batch_size",
        "accumulate_steps",
        "optimizer",
        "keep_checkpoints",
        "precision",
        "train_image_size",
        "stem_width",
    )
    taken: dict[str, Any] = {name: flags.FLAGS[name].value for name in names}
    hosts = _num_hosts()
    made = plan.make_plan(
        num_instances=num_instances,
        stem=stem,
        image_size=image_size,
        hosts=hosts,
        replicas_per_host=replicas,
        device_memory=device_memory,
        host_memory=host_memory,
        disk=_free_disk(run.RUN_DIR.value or ""),
        **taken,
    )
    steps = made.steps_per_epoch
    total = math.ceil(
        steps * optimization.EPOCHS.value / optimization.ACCUMULATE_STEPS.value
    )
    rows = (
        ("images", f"{num_instances:,}"),
        ("hosts x replicas", f"{hosts} x {replicas}"),
        ("bank on each replica", _gib(made.bank_on_replica)),
        ("bank in each host's memory", _gib(made.bank_on_host)),
        ("head's step on each replica", _gib(made.head)),
        ("weights and optimizer", _gib(made.state)),
        ("encoder's activations", _gib(made.activations)),
        ("one checkpoint", _gib(made.checkpoint)),
        ("steps for each epoch", f"{steps:,}"),
        ("updates of the run", f"{total:,}"),
    )
    for name, value in rows:
        print(f"{name:28} {value}")
    for warning in made.warnings:
        print(f"warning: {warning}")


def _gib(size):
    return f"{size / plan.GIB:.3f} GiB"


def _gpu_bytes():
    if not shutil.which("nvidia-smi"):
        return []
    query = ["--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    result = subprocess.run(
        ["nvidia-smi", *query], capture_output=True, text=True, check=False
    )
    sizes = result.stdout.split() if result.returncode == 0 else []
    return [int(size) * 2**20 for size in sizes if size.isdigit()]


def _num_hosts():
    if run.DISTRIBUTION.value != "multi_worker":
        return 1
    cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    workers = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
    if not workers:
        raise UsageError(
            "--distribution=multi_worker needs hosts in TF_CONFIG. Received: "
            f"TF_CONFIG={os.environ.get('TF_CONFIG')!r}"
        )
    return workers


def _free_disk(run_dir):
    path = pathlib.Path(run_dir).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _count_images():
    if data.IMAGES.value:
        return len(image_paths(data.IMAGES.value))
    return _count_prepared(
        data.DATA_DIR.value or "~/tensorflow_datasets",
        data.DATASET.value,
        data.SPLIT.value,
    )


def _count_prepared(data_dir, dataset, split):
    """Examples of a split such as train[:10000] or train[5%:]."""
    root = pathlib.Path(data_dir).expanduser() / dataset.replace(":", "/")
    infos = sorted(root.rglob("dataset_info.json"))
    match = re.fullmatch(r"(\w+)(?:\[(-?\d*%?):(-?\d*%?)\])?", split)
    if infos and match:
        name, *ends = match.groups()
        for part in json.loads(infos[-1].read_text())["splits"]:
            if part["name"] == name:
                size = sum(int(length) for length in part["shardLengths"])
                ends = [_position(end, size) for end in ends]
                return len(range(size)[slice(*ends)])
    raise UsageError(
        f"{dataset} is not prepared in {data_dir}, or has no split {split}. "
        "Give --num_instances."
    )


def _position(end, size):
    if not end:
        return None
    if end.endswith("%"):
        return round(int(end[:-1]) * size / 100)
    return int(end)


if __name__ == "__main__":
    main()
