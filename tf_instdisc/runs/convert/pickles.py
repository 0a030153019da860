"""Reads PyTorch pickles without running any code that they name.

A pickle is a program whose instructions may call any function that can be
imported. Here a name never becomes an object, and a call never happens. Tensors
and objects with known names become records of what was written, and everything
else is rejected.
"""

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any

from tf_instdisc.runs.convert.records import (
    DTYPES,
    INERT,
    INERT_PREFIX,
    CheckpointError,
    Inert,
    Name,
    Storage,
    Tensor,
)
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

MAX_PICKLE_BYTES = 4 * 2**20
"""The longest pickle. ResNet-152 with its optimizer takes a tenth of it."""

_MAX_AXES = 8
_NAMES = {known.code: known.name for known in pickletools.opcodes}
_ORDERED_DICT = "collections.OrderedDict"
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_PARAMETER = "torch._utils._rebuild_parameter"
_SIZE = "torch.Size"
_CALLED = frozenset({_ORDERED_DICT, *_TENSORS, _PARAMETER, _SIZE})

# What PyTorch writes, in protocol 2 and with names and strings of protocol 4.
# None of these takes more memory than its length plus about 100 bytes.
_INSTRUCTIONS = (
    *("PROTO", "FRAME", "STOP", "MARK"),
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2"),
    *("LONG1", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE"),
    *("SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES"),
    *("EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
    *("GLOBAL", "STACK_GLOBAL", "BINPERSID", "REDUCE", "NEWOBJ", "BUILD"),
)


def read(
    stream: io.BytesIO, where: str, storages: dict[str, Storage] | None = None
) -> Any:
    """Executes the instructions of one pickle, up to its end.

    Memory and time are bounded by a multiple of the pickle's length. The
    result may contain one object in many places; it must not be printed,
    compared or hashed as a whole.

    Args:
        stream: A stream at the first instruction; afterwards it is at the end.
        where: The name of the pickle in messages; escaped.
        storages: Collects the storages that are named, by key.

    Returns:
        Numbers, strings, lists, tuples and dictionaries; `Tensor`, `Storage`,
        `Name` and `Inert`.

    Raises:
        CheckpointError: If the pickle is damaged, or asks for something that
            is rejected.
    """
    try:
        return _Reader(stream, where, storages).load()
    except CheckpointError:
        raise
    # All errors that broken instructions can cause; no pickled code is run.
    except (
        ArithmeticError,
        AttributeError,
        EOFError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
        struct.error,
    ) as error:
        reason = shown(str(error), UNTRUSTED_LIMIT) or "it ends too early"
        if stream.tell() >= MAX_PICKLE_BYTES:
            reason = f"its pickle has more than {MAX_PICKLE_BYTES:,} bytes"
        raise CheckpointError(
            f"{where} is cut short, damaged, or not a PyTorch pickle: {reason}."
        ) from error


class _Dispatch(dict):
    """Methods by instruction."""

    def __missing__(self, code: int) -> Callable:
        name = _NAMES.get(chr(code), f"{code:#x}")

        def refuse(reader: "_Reader") -> None:
            raise reader.refusal(f"the instruction {name}")

        return refuse


class _Reader(pickle._Unpickler):
    """Python's own unpickler, without anything that could run or grow.

    The C version cannot be used: it allocates a memo as long as the highest
    index, and hashes dictionary keys, which takes 2**n steps for n nested
    pairs.
    """

    # Attributes of the base class that typeshed does not know.
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    dispatch = _Dispatch(
        (ord(code), pickle._Unpickler.dispatch[ord(code)])
        for code, name in _NAMES.items()
        if name in _INSTRUCTIONS
    )

    def __init__(
        self,
        stream: io.BytesIO,
        where: str,
        storages: dict[str, Storage] | None,
    ):
        # Strings of Python 2 are bytes with any content.
        super().__init__(stream, encoding="latin-1")
        self._stream = stream
        self._where = where
        self._storages = {} if storages is None else storages
        self._copied = 0

    def refusal(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self._where} asks for {what}, which no checkpoint of this kind "
            "needs: it is rejected, and none of its code has been run."
        )

    def damage(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._where} is damaged: {what}.")

    # === Methods that Python's unpickler calls ===

    def find_class(self, module: str, name: str) -> Name:
        whole = f"{module}.{name}"
        is_known = whole in INERT or whole in DTYPES or whole in _CALLED
        if not is_known and not (
            whole.startswith(INERT_PREFIX) and whole.replace(".", "").isalnum()
        ):
            raise self.refusal(f"the name '{shown(whole, UNTRUSTED_LIMIT)}'")
        return Name(whole)

    def persistent_load(self, reference: Any) -> Any:
        if not isinstance(reference, tuple) or len(reference) < 2:
            raise self.refusal("something outside of it that is not a storage")
        if reference[0] == "module":
            # A class, with its source.
            return reference[1]
        if reference[0] != "storage" or len(reference) < 5:
            raise self.refusal("something outside of it that is not a storage")
        _, kind, key, _, size, *views = reference
        if not isinstance(kind, Name) or kind.name not in DTYPES:
            raise self.refusal("a storage of an unknown type")
        start, view_size = 0, size
        if views and views[0] is not None:
            _, start, view_size = views[0]
        self._require_counts(size, start, view_size)
        if start + view_size > size or not isinstance(key, str):
            raise self.damage("a wrong storage")
        storage = Storage(kind.name, key, size, start, view_size)
        first = self._storages.setdefault(key, storage)
        if (first.kind, first.size) != (kind.name, size):
            raise self.damage("two storages of one key")
        return storage

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise self.refusal("a call of something that is not a name")
        self.append(self._made(function, arguments))

    def load_newobj(self) -> None:
        self.stack.pop()
        self.append(self._inert(self.stack.pop()))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        # A dictionary's own attributes are not needed.
        if isinstance(target, Inert) and isinstance(state, dict):
            target.state = state
        elif not isinstance(target, dict | Inert):
            raise self.refusal("BUILD of something that has no state")

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set_items(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set_items(self.stack[-1], items)

    dispatch.update(
        {
            pickle.REDUCE[0]: load_reduce,
            pickle.NEWOBJ[0]: load_newobj,
            pickle.BUILD[0]: load_build,
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
        }
    )

    # === Records ===

    def _inert(self, kind: Any) -> Inert:
        if (
            not isinstance(kind, Name)
            or kind.name in DTYPES
            or kind.name in _CALLED
        ):
            raise self.refusal("an object of something that is not a class")
        return Inert(kind.name)

    def _set_items(self, target: Any, items: list) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise self.refusal("an entry in something that is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise self.refusal("a key of an unknown type")
            target[key] = value

    def _made(self, function: Name, arguments: tuple) -> Any:
        name = function.name
        if name == _ORDERED_DICT:
            # Python 2 passes the items here.
            items = arguments[0] if arguments else []
            if not isinstance(items, list):
                raise self.refusal("a dictionary of what is not a list")
            self._copied += len(items)
            if self._copied > self._stream.tell():
                raise self.damage("the same items repeated too often")
            made: dict[Any, Any] = {}
            for key, value in items:
                self._set_items(made, [key, value])
            return made
        if name in _TENSORS:
            return self._tensor(*arguments[:4])
        if name == _PARAMETER:
            return arguments[0]
        if name == _SIZE:
            # Anything but a tuple of sizes is rejected by the tensor.
            return arguments[0]
        return self._inert(function)

    def _tensor(
        self, storage: Any, offset: Any, shape: Any, strides: Any
    ) -> Tensor:
        if not isinstance(storage, Storage):
            raise self.refusal("a tensor without a storage")
        for axes in (shape, strides):
            if not isinstance(axes, tuple) or len(axes) > _MAX_AXES:
                raise self.damage("a tensor of too many axes, or of none")
        self._require_counts(offset, *shape, *strides)
        numbers, last = 1, offset
        for size, stride in zip(shape, strides, strict=True):
            numbers *= size
            last += (size - 1) * stride
        if numbers and max(numbers - 1, last) >= storage.view_size:
            raise self.damage(
                f"a tensor of shape {shape} from {storage.view_size} numbers"
            )
        return Tensor(storage, offset, shape, strides)

    def _require_counts(self, *values: Any) -> None:
        for value in values:
            if type(value) is not int or not 0 <= value < 2**48:
                raise self.damage("a wrong size")
