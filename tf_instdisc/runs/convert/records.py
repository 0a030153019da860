"""What a checkpoint's pickle becomes: records, none of which does anything."""

import dataclasses
from typing import Any

from tf_instdisc.errors import UsageError

INERT = frozenset(
    {
        # The authors' and CMC's modules, and what they hold.
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
        # Arguments and figures that lie beside the tensors.
        "argparse.Namespace",
        "_codecs.encode",
        "builtins.set",
        "__builtin__.set",
        "numpy.dtype",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
    }
)
"""Names of which an inert record is made."""

INERT_PREFIX = "torch.nn.modules."
"""Of the layers of PyTorch, which are inert as well."""

ITEM_BYTES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
"""Kinds of storage, with the bytes of one number."""


class CheckpointError(UsageError):
    """A checkpoint is damaged, unknown, or holds what is refused."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name of the pickle, which is never looked up."""

    name: str


@dataclasses.dataclass(frozen=True)
class Storage:
    """Numbers that lie outside of the pickle.

    Attributes:
        kind: A key of `ITEM_BYTES`.
        key: Of the numbers in the file.
        size: How many there are.
        start: Where those of a view begin.
        view_size: How many of them belong to it.
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
    """An object of the pickle: its name and its state, without behaviour."""

    name: str
    state: dict[Any, Any] = dataclasses.field(default_factory=dict)
