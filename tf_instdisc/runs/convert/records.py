"""Inert records, which are what a checkpoint's pickle becomes."""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

from tf_instdisc.errors import UsageError

INERT = frozenset(
    {
        # The modules of the authors and of CMC, and their contents.
        "models.resnet.BasicBlock",
        "models.resnet.Bottleneck",
        "models.resnet.ResNet",
        "models.resnet_cifar.BasicBlock",
        "models.resnet_cifar.Bottleneck",
        "models.resnet_cifar.ResNet",
        "lib.normalize.Normalize",
        "alias_multinomial.AliasMethod",
        "lib.LinearAverage.LinearAverage",
        "lib.NCEAverage.NCEAverage",
        "lib.alias_multinomial.AliasMethod",
        "NCE.NCEAverage.MemoryInsDis",
        "NCE.NCEAverage.MemoryMoCo",
        "NCE.alias_multinomial.AliasMethod",
        "torch.nn.backends.thnn._get_thnn_function_backend",
        "torch.nn.parallel.data_parallel.DataParallel",
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "torch.device",
        # Arguments and metrics stored beside the tensors.
        "argparse.Namespace",
        "_codecs.encode",
        "builtins.set",
        "__builtin__.set",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
"""Names from which an inert record is created."""

INERT_PREFIX = "torch.nn.modules."
"""Names of PyTorch's layers, which become inert records as well."""

DTYPES = {
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
"""The types of the numbers by the kind of storage."""


class CheckpointError(UsageError):
    """A checkpoint is damaged, unknown, or contains something rejected."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in the pickle, which is never looked up."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers that are stored outside the pickle.

    Attributes:
        kind: A key of `DTYPES`.
        key: The key of the numbers in the file.
        size: The number of numbers.
        start: The first number of a view.
        view_size: The number of numbers in the view.
    """

    kind: str
    key: str
    size: int
    start: int
    view_size: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor whose numbers have not been read."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass
class Inert:
    """An object in the pickle: its name and its state, without behavior."""

    name: str
    state: dict[Any, Any] = dataclasses.field(default_factory=dict)
