"""Writes what torch.save wrote in PyTorch 0.4, without PyTorch."""

import io
import pickle
import zipfile

import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
KINDS = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
    "int64": "LongStorage",
    "uint8": "ByteStorage",
}


class Named:
    """A name in the pickle; no object of this name has to exist."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Call:
    """A call that the pickle asks for."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Module:
    """An object of a class, with its state, as torch pickles modules."""

    def __init__(self, module, name, state, is_torch=True):
        self.named, self.state = Named(module, name), state
        self.is_torch = is_torch


class Writer(pickle._Pickler):
    """Numbers of arrays are kept in `storages`, in order."""

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = {}
        self.kept = []

    def save(self, obj, save_persistent_id=True):
        self.kept.append(obj)  # Or its id would come again.
        if isinstance(obj, Named):
            self.write(f"c{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Module):
            if obj.is_torch:
                source = ("module", obj.named, "lib/x.py", "class X: pass")
                self.save(source)
                self.write(pickle.BINPERSID)
            else:
                self.save(obj.named)
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.save(obj.state)
            self.write(pickle.BUILD)
        elif isinstance(obj, Raw):
            self.write(obj.instructions)
        elif isinstance(obj, np.ndarray):
            self.save_tensor(obj)
        else:
            super().save(obj, save_persistent_id)

    def save_tensor(self, array):
        key = str(len(self.storages))
        array = np.ascontiguousarray(array).reshape(array.shape)
        self.storages[key] = array
        self.save(Named("torch._utils", "_rebuild_tensor_v2"))
        self.write(pickle.MARK)
        kind = Named("torch", KINDS[array.dtype.name])
        self.save(("storage", kind, key, "cuda:0", array.size, None))
        self.write(pickle.BINPERSID)
        strides = [stride // array.itemsize for stride in array.strides]
        self.save(0)
        self.save(array.shape)
        self.save(tuple(strides))
        self.save(False)
        self.save(Call(Named("collections", "OrderedDict")))
        self.write(pickle.TUPLE + pickle.REDUCE)


class Raw:
    """Instructions that are written as they are."""

    def __init__(self, instructions):
        self.instructions = instructions


def pickled(content):
    file = io.BytesIO()
    writer = Writer(file)
    writer.dump(content)
    return file.getvalue(), writer.storages


def legacy_bytes(content):
    """The format of PyTorch 0.4."""
    pickle_bytes, storages = pickled(content)
    system = {
        "protocol_version": 1001,
        "little_endian": True,
        "type_sizes": {"short": 2, "int": 4, "long": 4},
    }
    parts = [pickle.dumps(x, 2) for x in (MAGIC_NUMBER, 1001, system)]
    parts += [pickle_bytes, pickle.dumps(list(storages), 2)]
    for array in storages.values():
        parts += [array.size.to_bytes(8, "little"), array.tobytes()]
    return b"".join(parts)


def zip_bytes(content, compression=zipfile.ZIP_STORED):
    """The format of PyTorch from 1.6 on."""
    pickle_bytes, storages = pickled(content)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return file.getvalue()
