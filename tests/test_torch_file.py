"""PyTorch's files without PyTorch: read, and never run."""

import pickle
import zipfile

import numpy as np
import pytest

from tests import torch_files
from tests.torch_files import Call, Module, Named, Raw
from tf_instdisc.runs.convert import torch_file
from tf_instdisc.runs.convert.records import CheckpointError, Inert, Tensor

FORMATS = {"legacy": torch_files.legacy_bytes, "zip": torch_files.zip_bytes}


def sample():
    rng = np.random.default_rng(0)
    memory = rng.normal(size=(5, 3)).astype(np.float32)
    state = {
        "training": True,
        "_backend": Call(
            Named("torch.nn.backends.thnn", "_get_thnn_function_backend")
        ),
        "_buffers": Call(
            Named("collections", "OrderedDict"), [["memory", memory]]
        ),
        "multinomial": Module(
            "lib.alias_multinomial",
            "AliasMethod",
            {"alias": np.arange(5)},
            is_torch=False,
        ),
    }
    content = {
        "epoch": 200,
        "arch": "resnet18",
        "best": 0.41,
        "state_dict": {
            "a": rng.normal(size=(2, 3, 4)).astype(np.float32),
            "half": np.arange(6, dtype=np.float16),
            "step": np.array(7),
        },
        "lemniscate": Module("lib.NCEAverage", "NCEAverage", state),
        # Python 2 writes the ids of parameters like this.
        "optimizer": {"state": {Raw(b"I140737353842232\n"): {}}},
        "opt": Module("argparse", "Namespace", {"moco": False}, is_torch=False),
    }
    return content, memory


def write(tmp_path, data):
    path = tmp_path / "checkpoint.pth.tar"
    path.write_bytes(data)
    return str(path)


def read_everything(path):
    """Content with arrays in place of tensors."""
    with torch_file.open_file(path) as file:

        def resolved(value):
            if isinstance(value, Tensor):
                return file.read(value)
            if isinstance(value, Inert):
                return {"name": value.name, **resolved(value.state)}
            if isinstance(value, dict):
                return {key: resolved(item) for key, item in value.items()}
            return value

        return resolved(file.content)


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_and_modules_are_read(tmp_path, form):
    content, memory = sample()
    read = read_everything(write(tmp_path, FORMATS[form](content)))
    assert (read["epoch"], read["arch"], read["best"]) == (
        200,
        "resnet18",
        0.41,
    )
    for name, array in content["state_dict"].items():
        np.testing.assert_array_equal(read["state_dict"][name], array)
        assert read["state_dict"][name].dtype == array.dtype
    bank = read["lemniscate"]
    assert bank["name"] == "lib.NCEAverage.NCEAverage"
    np.testing.assert_array_equal(bank["_buffers"]["memory"], memory)
    np.testing.assert_array_equal(bank["multinomial"]["alias"], np.arange(5))
    assert read["opt"]["moco"] is False
    assert read["optimizer"] == {"state": {140737353842232: {}}}


@pytest.mark.parametrize("is_zip", (False, True))
def test_torchs_own_files_are_read(tmp_path, is_zip):
    torch = pytest.importorskip("torch", reason="torch writes the files")
    base = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "turned": base.permute(2, 0, 1),
        "view": base[1, :, 1::2],
        "same": base,
        "expanded": base[0, 0, :1].expand(4),
        "empty": torch.zeros(0, 3),
        "brain": torch.tensor([1.5, -2.0]).bfloat16(),
        "truth": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    path = tmp_path / "tensors.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
    read = read_everything(str(path))
    for name, tensor in tensors.items():
        wanted = tensor.detach()
        if name == "brain":
            wanted = wanted.float()
        np.testing.assert_array_equal(
            read[name].astype(wanted.numpy().dtype), wanted.numpy()
        )


# === Refused ===


def evil(tmp_path):
    """Payloads, with what the message must name; some would make a file."""
    command = f"touch {tmp_path}/ran"
    touch = (command,)
    system = Named("os", "system")
    return {
        "os.system": (Call(system, *touch), "os.system"),
        "posix.system": (
            Call(Named("posix", "system"), *touch),
            "posix.system",
        ),
        "eval": (Call(Named("builtins", "eval"), "1"), "builtins.eval"),
        "python 2": (
            Call(Named("__builtin__", "eval"), "1"),
            "__builtin__.eval",
        ),
        "copyreg": (
            Call(Named("copyreg", "_reconstructor"), Named("os", "x"), 1, None),
            "copyreg._reconstructor",
        ),
        "torch.load": (Call(Named("torch", "load"), "x"), "torch.load"),
        "unknown module": (
            Module("lib.Other", "Bank", {"memory": 1}),
            "lib.Other.Bank",
        ),
        "dotted": (
            Named("collections", "OrderedDict.__class__"),
            "OrderedDict.__class__",
        ),
        "in a list": ([[{"x": Call(system, *touch)}]], "os.system"),
        "in an argument": (
            Call(Named("collections", "OrderedDict"), Call(system, *touch)),
            "os.system",
        ),
        "in a state": (
            Module("lib.NCEAverage", "NCEAverage", {"f": Call(system, *touch)}),
            "os.system",
        ),
        "in a persistent id": (
            Raw(
                b"(X\x06\x00\x00\x00moduleq\x07cos\nsystem\nX\x01\x00\x00\x00a"
                b"X\x01\x00\x00\x00btQ"
            ),
            "os.system",
        ),
        "INST": (Raw(f"(S'{command}'\nios\nsystem\n".encode()), "STRING"),
        "OBJ": (Raw(b"(ccollections\nOrderedDict\no"), "OBJ"),
        "STACK_GLOBAL": (
            Raw(b"\x8c\x02os\x8c\x06system\x93"),
            "os.system",
        ),
        "NEWOBJ_EX": (Raw(b"ccollections\nOrderedDict\n)}\x92"), "NEWOBJ_EX"),
        "EXT1": (Raw(b"\x82\x01"), "EXT1"),
        "PERSID": (Raw(b"Pstorage\n"), "PERSID"),
        "call of an inert record": (
            Call(Call(Named("lib.NCEAverage", "NCEAverage")), 1),
            "a call",
        ),
        "state for a name": (
            Raw(b"ccollections\nOrderedDict\n}b"),
            "BUILD",
        ),
        "deep key": (
            Raw(b"})" + b"\x85" * 200_000 + b"K\x01s"),
            "a key",
        ),
    }


@pytest.mark.parametrize("form", FORMATS)
def test_anything_but_a_tensor_is_refused_by_name(tmp_path, form):
    for case, (payload, named) in evil(tmp_path).items():
        data = FORMATS[form]({"state_dict": {}, "lemniscate": payload})
        with pytest.raises(CheckpointError) as caught:
            read_everything(write(tmp_path, data))
        assert named in str(caught.value), case
        assert not (tmp_path / "ran").exists(), case


def test_python_itself_would_have_run_it(tmp_path):
    payload, _ = evil(tmp_path)["posix.system"]
    pickle.loads(torch_files.pickled([payload])[0])
    assert (tmp_path / "ran").exists()


def test_a_hostile_header_is_refused_too(tmp_path):
    payload, _ = evil(tmp_path)["os.system"]
    data = torch_files.pickled(payload)[0]
    with pytest.raises(CheckpointError, match=r"os\.system"):
        read_everything(write(tmp_path, data))


# === Damaged ===


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_cut_anywhere_is_refused(tmp_path, form):
    data = FORMATS[form](sample()[0])
    cuts = {1, 2, 5, 30, len(data) - 1, *range(0, len(data), 37)}
    for cut in cuts:
        with pytest.raises(CheckpointError):
            read_everything(write(tmp_path, data[:cut]))


@pytest.mark.parametrize("form", FORMATS)
def test_other_damage_ends_in_a_message_or_in_numbers(tmp_path, form):
    data = FORMATS[form](sample()[0])
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            damaged[place] = rng.integers(0, 256)
        try:
            read_everything(write(tmp_path, bytes(damaged)))
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_numbers_of_a_zip_are_checked(tmp_path):
    content, memory = sample()
    data = torch_files.zip_bytes(content)
    place = data.index(memory.tobytes())
    damaged = data[:place] + b"\xff" + data[place + 1 :]
    with pytest.raises(CheckpointError, match="checksum"):
        read_everything(write(tmp_path, damaged))


def test_packed_entries_are_refused(tmp_path):
    # 100 MB of zeros in 100 kB.
    content = {"state_dict": {"a": np.zeros(25_000_000, np.float32)}}
    data = torch_files.zip_bytes(content, zipfile.ZIP_DEFLATED)
    assert len(data) < 200_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_everything(write(tmp_path, data))


def tensor_of(shape, strides, size=1, offset=0):
    storage = Raw(
        torch_files.pickled(
            ("storage", Named("torch", "FloatStorage"), "0", "cpu", size, None)
        )[0][2:-1]
        + pickle.BINPERSID
    )
    function = Named("torch._utils", "_rebuild_tensor_v2")
    return Call(function, storage, offset, shape, strides, False, {})


def stored(tensor):
    """A file whose one storage holds one number, 0.5."""
    data = torch_files.legacy_bytes([tensor])
    empty, keyed = pickle.dumps([], 2), pickle.dumps(["0"], 2)
    assert data.endswith(empty)
    numbers = (1).to_bytes(8, "little") + np.float32(0.5).tobytes()
    return data.removesuffix(empty) + keyed + numbers


@pytest.mark.parametrize(
    "tensor",
    (
        tensor_of((10**9,), (0,)),
        tensor_of((2,), (1,)),
        tensor_of((1,), (1,), offset=1),
        tensor_of((-1,), (1,)),
        tensor_of((1,), (-1,)),
        tensor_of((True,), (1,)),
        tensor_of((1, 1), (1,)),
        tensor_of((1,), (1,), size=2**60),
        tensor_of((2**24,), (1,), size=2**24),
        tensor_of("a", "b"),
    ),
)
def test_tensors_beyond_their_storage_are_refused(tmp_path, tensor):
    with torch_file.open_file(
        write(tmp_path, stored(tensor_of((1, 1), (1, 1))))
    ) as file:
        np.testing.assert_array_equal(file.read(file.content[0]), [[0.5]])
    with pytest.raises(CheckpointError):
        read_everything(write(tmp_path, stored(tensor)))


def test_large_numbers_in_instructions_cost_nothing(tmp_path):
    for raw in (
        b"]r\xff\xff\xff\xff",  # memo 4294967295
        b"\x8d" + (2**62).to_bytes(8, "little"),  # a text of 4 EB
        b"B\xff\xff\xff\x7f",  # bytes, 2 GB
    ):
        data = torch_files.legacy_bytes([Raw(raw), 1])
        try:
            read_everything(write(tmp_path, data))
        except CheckpointError:
            continue
        assert raw.startswith(b"]")


def test_other_files_are_refused(tmp_path):
    for data, message in (
        (b"", "is empty"),
        (b"hello", "torch.save"),
        (pickle.dumps({"a": 1}), "torch.save"),
        (torch_files.zip_bytes({})[:100], "cut short"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_everything(write(tmp_path, data))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_everything(str(tmp_path / "missing"))
