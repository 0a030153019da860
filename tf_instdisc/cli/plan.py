"""Estimates the memory, disk space and steps of a run without starting it.

It takes the flags of instdisc-train.

Example:
  instdisc plan --recipe=imagenet_resnet50 --num_instances=1281167
"""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
from typing import Any

from tf_instdisc.cli import train
from tf_instdisc.cli.folder_settings import config_of, default_run_dir
from tf_instdisc.cli.options import require_images
from tf_instdisc.config import DataConfig, TrainingConfig
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import caches, is_url


@dataclasses.dataclass(frozen=True)
class PlanOptions(Settings):
    """Images and machines"""

    num_instances: int | None = setting(
        None,
        "Number of training images; by default, that of --images, or of the "
        "dataset that TFDS has prepared in --data_dir.",
        least=2,
    )
    replicas_per_host: int | None = setting(
        None, "GPUs of each host; by default, those of this host.", least=1
    )
    device_gib: float | None = setting(
        None,
        "Memory of a GPU; by default, that of this host's GPU.",
        least=0.001,
    )
    host_gib: float | None = setting(
        None, "Memory of a host; by default, that of this host.", least=0.001
    )


SETTINGS = [PlanOptions, *train.SETTINGS]


def main(
    options: PlanOptions, training: train.TrainOptions, *groups: Any
) -> None:
    """Prints the estimates."""
    data = groups[0]
    require_images(data)
    run_dir = training.run_dir or default_run_dir(data, training.recipe)
    config = config_of(groups, training.recipe, run_dir)

    from tf_instdisc.training import plan

    gpus = _gpu_bytes()
    replicas = options.replicas_per_host or _replicas_here(
        config.training, len(gpus)
    )
    device_memory = gpus[0] if gpus else None
    if options.device_gib:
        device_memory = int(options.device_gib * plan.GIB)
    host_memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if options.host_gib:
        host_memory = int(options.host_gib * plan.GIB)
    num_instances = options.num_instances or _count_images(config.data)
    hosts = _num_hosts(config.training.distribution)
    made = plan.make_plan(
        config,
        plan.Machines(
            hosts=hosts,
            replicas_per_host=replicas,
            device_memory=device_memory,
            host_memory=host_memory,
            disk=_free_disk(run_dir),
        ),
        num_instances,
    )
    steps = made.steps_per_epoch
    optimizer = config.optimizer
    total = steps * optimizer.epochs // optimizer.accumulate_steps
    rows = (
        ("images", f"{num_instances:,}"),
        ("hosts x replicas", f"{hosts} x {replicas}"),
        (
            "memory of each GPU",
            _gib(device_memory)
            if device_memory
            else "none here; --device_gib plans for GPUs",
        ),
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


def _gib(size: int) -> str:
    return f"{size / 2**30:.3f} GiB"


def _gpu_bytes() -> list[int]:
    """Returns the memory of each GPU that TensorFlow would use."""
    if not shutil.which("nvidia-smi"):
        return []
    columns = "--query-gpu=index,uuid,memory.total"
    result = subprocess.run(
        ["nvidia-smi", columns, "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    gpus = []
    for line in result.stdout.splitlines() if result.returncode == 0 else ():
        *names, size = line.split(", ")
        if size.isdigit():
            gpus.append((names, int(size) * 2**20))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [size for _, size in gpus]
    sizes = []
    for name in map(str.strip, visible.split(",")):
        # An index, or the beginning of a UUID.
        found = [
            size
            for (index, uuid), size in gpus
            if name == index or (name and uuid.startswith(name))
        ]
        if not found:
            break  # Like CUDA, ignore everything after it.
        sizes.append(found[0])
    return sizes


def _replicas_here(config: TrainingConfig, num_gpus: int) -> int:
    """Returns the number of replicas on a host such as this one."""
    if config.distribution == "one_device":
        return 1
    if num_gpus or config.distribution == "multi_worker":
        return num_gpus or 1
    return config.logical_cpus


def _num_hosts(distribution: str) -> int:
    if distribution != "multi_worker":
        return 1
    try:
        cluster = json.loads(os.environ["TF_CONFIG"])["cluster"]
        workers = sum(len(cluster.get(job, ())) for job in ("chief", "worker"))
    except (KeyError, ValueError, TypeError, AttributeError):
        workers = 0
    if not workers:
        raise UsageError(
            "--distribution=multi_worker needs hosts in TF_CONFIG. Received: "
            f"TF_CONFIG={os.environ.get('TF_CONFIG')!r}"
        )
    return workers


def _free_disk(run_dir: str) -> int:
    # A run at a URL is written to a copy first.
    path = caches() if is_url(run_dir) else pathlib.Path(run_dir).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _count_images(data: DataConfig) -> int:
    if data.images:
        return len(image_paths(data.images))

    from tf_instdisc.data.tfds_builder import open_builder, require_split

    builder = open_builder(data.dataset or "", data.data_dir)
    if not builder.is_prepared():
        raise UsageError(
            f"{data.dataset} is not prepared in {builder.data_dir}. Give "
            "--num_instances."
        )
    return require_split(builder, data.split).num_examples
