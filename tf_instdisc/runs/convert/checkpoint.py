"""Converts a released checkpoint to a run directory."""

import dataclasses
import pathlib
from typing import Any, NoReturn

import numpy as np

from tf_instdisc.config import (
    DataConfig,
    EncoderConfig,
    MethodConfig,
    RunConfig,
)
from tf_instdisc.paths import checked_path, local_path
from tf_instdisc.runs import lock
from tf_instdisc.runs.convert import torch_file
from tf_instdisc.runs.convert.modules import module_weights
from tf_instdisc.runs.convert.records import CheckpointError, Inert, Tensor
from tf_instdisc.runs.convert.resnet_weights import build_from
from tf_instdisc.runs.directory import RunDirectory, RunDirectoryError
from tf_instdisc.runs.images import name_rows
from tf_instdisc.runs.opening import check_usable, open_run
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

# The authors' evaluation: shorter side 256, center crop 224.
_CROP_FRACTION = 0.875

_ENCODER = (
    "backbone",
    "width",
    "stem_width",
    "stem",
    "mean",
    "std",
    "embedding_dim",
)
_NETWORKS = ("state_dict", "net", "model")


@dataclasses.dataclass(frozen=True)
class _Parts:
    """The contents of a checkpoint, by their names in the method.

    Attributes:
        weights: The network's tensors, by name.
        memory: The memory bank, or None.
        params: The parameters of the bank's module, or None.
        is_softmax: Whether the loss was a softmax over the negatives.
    """

    weights: dict[str, Tensor]
    memory: Tensor | None
    params: Tensor | None
    is_softmax: bool


def convert(
    checkpoint: str,
    run_dir: str,
    image_size: int | None = None,
    images: str | None = None,
) -> RunDirectory:
    """Converts a PyTorch checkpoint to a run directory.

    Supported are the authors' checkpoints (zhirongw/lemniscate.pytorch): those
    of `main.py`, with `state_dict` and `lemniscate`, and those of `cifar.py`,
    with `net`, as weights or as a module, and `lemniscate`; and CMC's InsDis
    of any width (HobbitLong/CMC: `model` and `contrast`). No code in the file
    is run, and PyTorch is not needed.

    Args:
        checkpoint: The file.
        run_dir: A missing or empty directory, or what a killed call of the
            same conversion left behind.
        image_size: Side of the encoder's input, in pixels. By default 32 for
            checkpoints of `cifar.py`, which neither resizes nor crops, and
            224 for others.
        images: The folder from which the bank was computed, sorted by class
            and name as in torchvision. It gives the rows names and labels;
            without it, they are numbered and have no labels.

    Returns:
        The run: encoder, flags, and the bank if the checkpoint has one.

    Raises:
        FileNotFoundError: If the checkpoint or the folder is missing.
        CheckpointError: If the checkpoint is damaged, unknown, or asks for
            anything but tensors.
        RunDirectoryError: If `run_dir` is not empty.
        ValueError: If the number of images in the folder differs from the
            number of rows in the bank.
    """
    checkpoint = local_path(checkpoint, "from")
    run_dir = local_path(run_dir, "to", "run")
    images = images and checked_path(images, "images")
    name = pathlib.Path(checkpoint).name
    _require_unused(run_dir, name)
    with torch_file.open_file(checkpoint) as file:
        parts = _find_parts(file.content)
        encoder, config = build_from(parts.weights, file.read, image_size)
        rows = None
        if parts.memory is not None:
            rows = _rows(file.read(parts.memory), config["embedding_dim"])
        params = None
        if parts.params is not None and parts.params.shape in ((2,), (4,)):
            params = file.read(parts.params)
    bank = None
    if rows is not None:
        bank = name_rows(rows, images)
    written = RunRecord(
        RunConfig(
            data=DataConfig(
                images=images,
                image_size=config["image_size"],
                # The normalization shows which of their programs it was.
                crop_fraction=1.0 if "mean" in config else _CROP_FRACTION,
            ),
            encoder=EncoderConfig(
                **{name: config[name] for name in _ENCODER if name in config}
            ),
            method=_method(params, parts.is_softmax),
        ),
        {"converted_from": name},
    )
    with lock.holding(run_dir):
        left = RunDirectory(pathlib.Path(run_dir))
        if left.encoder.exists() and (bank is None or left.bank.exists()):
            _refuse(run_dir)
        run = open_run(run_dir, written)
        run.save_encoder(encoder)
        if bank is not None:
            run.save_bank(bank)
    return run


def _require_unused(run_dir: str, name: str) -> None:
    """Raises unless a conversion of this file can begin, or begin again."""
    run = RunDirectory(pathlib.Path(run_dir))
    if run.settings.exists():
        facts = run.read_record().facts
        if facts.get("converted_from") != name or run.bank.exists():
            _refuse(run_dir)
        return
    try:
        check_usable(run_dir)
    except RunDirectoryError:
        _refuse(run_dir)


def _refuse(run_dir: str) -> NoReturn:
    raise RunDirectoryError(
        f"`to` must be missing or empty. Received: to={run_dir}"
    )


def _find_parts(content: Any) -> _Parts:
    if not isinstance(content, dict):
        raise CheckpointError(
            "The checkpoint must be a dictionary with `state_dict`, `net` or "
            f"`model`. Received: {type(content).__name__}"
        )
    weights = _find_weights(content)
    buffers: Any = content.get("contrast")
    bank = content.get("lemniscate")
    if isinstance(bank, Inert):
        buffers = bank.state.get("_buffers")
    buffers = buffers if isinstance(buffers, dict) else {}
    options = content.get("opt")
    options = options.state if isinstance(options, Inert) else {}
    memory = buffers.get("memory")
    # MoCo's memory is a queue of batches, not a row for each image.
    is_queue = bool(options.get("moco")) or "model_ema" in content
    params = buffers.get("params")
    return _Parts(
        weights,
        memory if isinstance(memory, Tensor) and not is_queue else None,
        params if isinstance(params, Tensor) else None,
        options.get("softmax") is True,
    )


def _find_weights(content: dict) -> dict[str, Tensor]:
    """Finds the network's tensors by name, wherever they are stored."""
    found = [content[key] for key in _NETWORKS if key in content]
    weights = found[0] if found else content
    if isinstance(weights, Inert):
        weights = module_weights(weights)
    is_named = isinstance(weights, dict) and bool(weights)
    if not found and not (
        is_named and all(isinstance(v, Tensor) for v in weights.values())
    ):
        keys = shown(", ".join(map(str, list(content)[:10])), UNTRUSTED_LIMIT)
        if "classifier" in content:
            raise CheckpointError(
                "The checkpoint holds a linear classifier and not the network "
                f"that it was trained on. Received: {keys}"
            )
        if "lemniscate" in content or "contrast" in content:
            raise CheckpointError(
                "The checkpoint holds a memory bank, but no network. "
                f"Received: {keys}"
            )
        raise CheckpointError(
            "The checkpoint must hold `state_dict` or `net` (the authors') or "
            f"`model` (CMC's). Received: {keys}"
        )
    if not is_named:
        raise CheckpointError("The checkpoint's network has no weights.")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            named = shown(str(name), UNTRUSTED_LIMIT)
            raise CheckpointError(f"The weight '{named}' is not a tensor.")
    return weights


def _rows(memory: np.ndarray, embedding_dim: int) -> np.ndarray:
    rows = memory.astype(np.float32)
    if rows.ndim != 2 or rows.shape[1] != embedding_dim or len(rows) < 2:
        raise CheckpointError(
            f"The bank must have rows of {embedding_dim} numbers. "
            f"Received: shape {rows.shape}"
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        raise CheckpointError("The bank holds NaN, infinity or empty rows.")
    # The authors initialize rows of other lengths.
    rows /= lengths
    return rows


def _method(params: np.ndarray | None, is_softmax: bool) -> MethodConfig:
    """Derives the method's settings from the bank's module, or defaults."""
    values = [] if params is None else params.reshape(-1).tolist()
    found: dict[str, Any] = {}
    try:
        if len(values) == 4:
            num_negatives, temperature, _, momentum = values
            found["objective"] = "info_nce" if is_softmax else "nce"
            found["num_negatives"] = int(num_negatives)
        elif len(values) == 2:
            temperature, momentum = values
            found["objective"] = "softmax"
        else:
            return MethodConfig()
        return MethodConfig(
            temperature=_short(temperature),
            bank_momentum=_short(momentum),
            **found,
        )
    except (OverflowError, ValueError):  # NaN, or out of range.
        return MethodConfig()


def _short(value: float) -> float:
    """Rounds a float32 value, so that 0.07 remains 0.07."""
    return float(f"{value:.6g}")
