"""Runs a SavedModel through TensorFlow's C API, without its Python.

Usage: c_loader.py LIBRARY_DIR SAVED_MODEL REQUESTS.npz ANSWERS.npz

REQUESTS holds `calls`, JSON: a list of {"input": TENSOR, "outputs": {name:
TENSOR}}, and `feed_0`, `feed_1`, ... with the arrays. ANSWERS gets
`NUMBER/NAME`. TF Serving loads a model in the same way.
"""

import ctypes
import json
import os
import sys

import numpy as np

_STRING = 7
_TYPES = {1: np.float32, 4: np.uint8, 9: np.int64, 10: np.bool_}
_STRING_BYTES = 24  # sizeof(TF_TString)

_POINTERS = (
    "TF_NewStatus",
    "TF_NewGraph",
    "TF_NewSessionOptions",
    "TF_LoadSessionFromSavedModel",
    "TF_GraphOperationByName",
    "TF_AllocateTensor",
    "TF_TensorData",
    "TF_StringGetDataPointer",
)
_INT64S = ("TF_Dim", "TF_TensorByteSize", "TF_StringGetSize")


class _Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


def _open(library_dir):
    ctypes.CDLL(
        os.path.join(library_dir, "libtensorflow_framework.so.2"),
        mode=ctypes.RTLD_GLOBAL,
    )
    tf = ctypes.CDLL(os.path.join(library_dir, "libtensorflow_cc.so.2"))
    for name in _POINTERS:
        getattr(tf, name).restype = ctypes.c_void_p
    for name in _INT64S:
        getattr(tf, name).restype = ctypes.c_int64
    tf.TF_Message.restype = ctypes.c_char_p
    return tf


class Model:
    """A session on a SavedModel."""

    def __init__(self, library_dir, path):
        self.tf = _open(library_dir)
        self.status = ctypes.c_void_p(self.tf.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.tf.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            self.tf.TF_LoadSessionFromSavedModel(
                ctypes.c_void_p(self.tf.TF_NewSessionOptions()),
                None,
                path.encode(),
                tags,
                1,
                self.graph,
                None,
                self.status,
            )
        )
        self._check()

    def _check(self):
        if self.tf.TF_GetCode(self.status):
            raise RuntimeError(self.tf.TF_Message(self.status).decode())

    def _tensor_name(self, name):
        operation, _, index = name.partition(":")
        found = self.tf.TF_GraphOperationByName(self.graph, operation.encode())
        assert found, name
        return _Output(found, int(index))

    def run(self, input_name, array, output_names):
        outputs = (_Output * len(output_names))(
            *(self._tensor_name(name) for name in output_names)
        )
        values = (ctypes.c_void_p * len(output_names))()
        self.tf.TF_SessionRun(
            self.session,
            None,
            (_Output * 1)(self._tensor_name(input_name)),
            (ctypes.c_void_p * 1)(self._to_tensor(array)),
            1,
            outputs,
            values,
            len(output_names),
            None,
            0,
            None,
            self.status,
        )
        self._check()
        return [self._to_array(ctypes.c_void_p(value)) for value in values]

    def _to_tensor(self, array):
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        is_string = array.dtype == object
        if is_string:
            code, num_bytes = _STRING, array.size * _STRING_BYTES
        else:
            array = np.ascontiguousarray(array)
            (code,) = (c for c, t in _TYPES.items() if t == array.dtype)
            num_bytes = array.nbytes
        tensor = self.tf.TF_AllocateTensor(
            code, dims, array.ndim, ctypes.c_size_t(num_bytes)
        )
        data = self.tf.TF_TensorData(ctypes.c_void_p(tensor))
        if not is_string:
            ctypes.memmove(data, array.ctypes.data, num_bytes)
            return tensor
        for i, item in enumerate(array.ravel()):
            slot = ctypes.c_void_p(data + i * _STRING_BYTES)
            self.tf.TF_StringInit(slot)
            self.tf.TF_StringCopy(slot, item, ctypes.c_size_t(len(item)))
        return tensor

    def _to_array(self, tensor):
        shape = [
            self.tf.TF_Dim(tensor, i) for i in range(self.tf.TF_NumDims(tensor))
        ]
        code = self.tf.TF_TensorType(tensor)
        data = self.tf.TF_TensorData(tensor)
        if code != _STRING:
            content = ctypes.string_at(data, self.tf.TF_TensorByteSize(tensor))
            return np.frombuffer(content, _TYPES[code]).reshape(shape)
        items = np.empty(int(np.prod(shape)), object)
        for i in range(items.size):
            slot = ctypes.c_void_p(data + i * _STRING_BYTES)
            items[i] = ctypes.string_at(
                self.tf.TF_StringGetDataPointer(slot),
                self.tf.TF_StringGetSize(slot),
            )
        return items.reshape(shape)


def main():
    library_dir, path, requests_path, answers_path = sys.argv[1:]
    model = Model(library_dir, path)
    answers = {}
    with np.load(requests_path, allow_pickle=True) as requests:
        for i, call in enumerate(json.loads(str(requests["calls"]))):
            values = model.run(
                call["input"], requests[f"feed_{i}"], call["outputs"].values()
            )
            for name, value in zip(call["outputs"], values, strict=True):
                answers[f"{i}/{name}"] = value
    assert "tensorflow" not in sys.modules
    np.savez(answers_path, **answers)


if __name__ == "__main__":
    main()
