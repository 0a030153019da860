"""Reads pickles of PyTorch without running anything that they name.

A pickle is a program whose instructions may call any function that can be
imported. Here the instructions are carried out by us: a name never becomes an
object, a call never happens. Containers, numbers and texts are made as they
are; tensors and the objects of `INERT` become records of what was written;
every other name, and every instruction that PyTorch does not write, is
refused.
"""

import pickletools
from typing import IO, Any, Protocol, cast

from tf_instdisc.convert.records import (
    INERT,
    ITEM_BYTES,
    CheckpointError,
    Inert,
    Name,
    Storage,
    Tensor,
)

_MAX_INSTRUCTIONS = 5_000_000
_PLAIN = {
    "BINBYTES",
    "BINFLOAT",
    "BININT",
    "BININT1",
    "BININT2",
    "BINSTRING",
    "BINUNICODE",
    "INT",  # Python 2, beyond 32 bits.
    "LONG1",
    "SHORT_BINBYTES",
    "SHORT_BINSTRING",
    "SHORT_BINUNICODE",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

_ORDERED_DICT = "collections.OrderedDict"
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETER = "torch._utils._rebuild_parameter"
_SIZE = "torch.Size"


class Stream(Protocol):
    """Where instructions are read: bytes in memory or a mapped file."""

    def read(self, n: int, /) -> bytes:
        """Reads at most `n` bytes."""

    def readline(self) -> bytes:
        """Reads to the end of the line."""

    def tell(self) -> int:
        """The position."""


def read(
    stream: Stream, where: str, storages: dict[str, Storage] | None = None
) -> Any:
    """Carries out the instructions of one pickle, up to its end.

    Args:
        stream: Stands at the first instruction; afterwards behind the last.
        where: What messages call it.
        storages: Gets the storages that are named, by key.

    Returns:
        Numbers, texts, lists, tuples and dictionaries; `Tensor`, `Storage`,
        `Name` and `Inert`.

    Raises:
        CheckpointError: If it is damaged, or asks for what is refused.
    """
    try:
        return _Machine(where, {} if storages is None else storages).run(stream)
    except CheckpointError:
        raise
    # All that broken instructions can lead to: nothing of the pickle's runs.
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        UnicodeError,
        ValueError,
    ) as error:
        raise CheckpointError(
            f"{where} is damaged or no pickle of PyTorch's: {error}"
        ) from error


class _Machine:
    """Stack and memo while the instructions are carried out."""

    def __init__(self, where: str, storages: dict[str, Storage]):
        self.where = where
        self.storages = storages
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: Stream) -> Any:
        for count, (instruction, value, _) in enumerate(
            pickletools.genops(cast(IO[bytes], stream))
        ):
            if count >= _MAX_INSTRUCTIONS:
                raise CheckpointError(
                    f"{self.where} has more than {_MAX_INSTRUCTIONS:,} "
                    "instructions, which no checkpoint needs."
                )
            name = instruction.name
            if name == "STOP":
                (result,) = self.stack
                return result
            if name in _PLAIN:
                self.stack.append(value)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _TUPLES:
                self.stack.append(tuple(self.take(_TUPLES[name])))
            else:
                self.carry_out(name, value)
        raise CheckpointError(f"{self.where} ends too early.")

    def take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise CheckpointError(f"{self.where} is damaged: nothing to take.")
        kept = len(self.stack) - count
        taken = self.stack[kept:]
        del self.stack[kept:]
        return taken

    def take_marked(self) -> list[Any]:
        taken, self.stack = self.stack, self.marked.pop()
        return taken

    def carry_out(self, name: str, value: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marked.append(stack)
                self.stack = []
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE":
                items = self.take_marked()
                self.stack.append(tuple(items))
            case "APPEND":
                (item,) = self.take(1)
                self.extend(stack[-1], [item])
            case "APPENDS":
                items = self.take_marked()
                self.extend(self.stack[-1], items)
            case "SETITEM":
                items = self.take(2)
                self.set_items(stack[-1], items)
            case "SETITEMS":
                items = self.take_marked()
                self.set_items(self.stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[value] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[value])
            case "GLOBAL":
                stack.append(self.named(*value.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.named(*self.take(2)))
            case "BINPERSID":
                (reference,) = self.take(1)
                stack.append(self.persistent(reference))
            case "REDUCE":
                function, arguments = self.take(2)
                stack.append(self.made(function, arguments))
            case "NEWOBJ":
                kind, _ = self.take(2)
                stack.append(self.inert(kind))
            case "BUILD":
                (state,) = self.take(1)
                # A dictionary's own attributes are of no use here.
                if isinstance(stack[-1], Inert) and isinstance(state, dict):
                    stack[-1].state = state
                elif not isinstance(stack[-1], dict | Inert):
                    raise self.refusal("BUILD of something that has no state")
            case _:
                raise self.refusal(f"the instruction {name}")

    def refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where} asks for {what}, which no checkpoint of this kind "
            "needs: it is refused, and nothing of it has been run."
        )

    def named(self, module: str, attribute: str) -> Name:
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise self.refusal("a name that is no text")
        name = f"{module}.{attribute}"
        known = (_ORDERED_DICT, *_TENSORS, _PARAMETER, _SIZE)
        if name not in INERT and name not in ITEM_BYTES and name not in known:
            raise self.refusal(f"the name {name[:200]!r}")
        return Name(name)

    def inert(self, kind: Any) -> Inert:
        if not isinstance(kind, Name) or kind.name not in INERT:
            raise self.refusal("an object of something that is no class")
        return Inert(kind.name)

    def extend(self, items: Any, more: list[Any]) -> None:
        if not isinstance(items, list):
            raise self.refusal("an item in something that is no list")
        items.extend(more)

    def set_items(self, target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise self.refusal("an entry in something that is no dictionary")
        for key, item in zip(items[::2], items[1::2], strict=True):
            # Other keys are not written, and hashing nested ones may crash.
            if not isinstance(key, str | int):
                raise self.refusal("a key that is neither text nor integer")
            target[key] = item

    def made(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise self.refusal("a call of something that is no name")
        name = function.name
        if name == _ORDERED_DICT:
            # Python 2 gives the items here.
            made: dict[Any, Any] = {}
            for key, item in arguments[0] if arguments else ():
                self.set_items(made, [key, item])
            return made
        if name in _TENSORS:
            return _tensor(self, *arguments[:4])
        if name == _PARAMETER:
            return arguments[0]
        if name == _SIZE:
            return tuple(arguments[0])
        return self.inert(function)

    def persistent(self, reference: Any) -> Any:
        if not isinstance(reference, tuple) or len(reference) < 2:
            raise self.refusal("something outside of it that is no storage")
        if reference[0] == "module":
            # A class, with its source.
            return reference[1]
        if reference[0] != "storage":
            raise self.refusal("something outside of it that is no storage")
        _, kind, key, _, size, *views = reference
        if not isinstance(kind, Name) or kind.name not in ITEM_BYTES:
            raise self.refusal("a storage of unknown numbers")
        start, view_size = 0, size
        if views and views[0] is not None:
            _, start, view_size = views[0]
        _require_counts(self, size, start, view_size)
        if start + view_size > size or not isinstance(key, str):
            raise CheckpointError(f"{self.where} is damaged: a wrong storage.")
        storage = Storage(kind.name, key, size, start, view_size)
        first = self.storages.setdefault(key, storage)
        if (first.kind, first.size) != (kind.name, size):
            raise CheckpointError(f"{self.where} is damaged: two storages.")
        return storage


def _tensor(machine, storage, offset, shape, strides) -> Tensor:
    if not isinstance(storage, Storage):
        raise machine.refusal("a tensor without a storage")
    shape, strides = tuple(shape), tuple(strides)
    _require_counts(machine, offset, *shape, *strides)
    numbers, last = 1, offset
    for size, stride in zip(shape, strides, strict=True):
        numbers *= size
        last += (size - 1) * stride
    if numbers and (numbers > storage.view_size or last >= storage.view_size):
        raise CheckpointError(
            f"{machine.where} is damaged: a tensor of shape {shape} from "
            f"{storage.view_size} numbers."
        )
    return Tensor(storage, offset, shape, strides)


def _require_counts(machine, *values) -> None:
    for value in values:
        if type(value) is not int or not 0 <= value < 2**48:
            raise CheckpointError(f"{machine.where} is damaged: a wrong size.")
