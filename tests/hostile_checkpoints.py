"""Files that make a careless reader of PyTorch's run out of memory or time."""

import io
import pickle
import struct
import zipfile

import numpy as np

from tests import torch_files
from tests.torch_files import Call, Module, Named, Raw
from tests.torch_forward import random_state

PROTOCOL = b"\x80\x02"


def text(content):
    return b"X" + struct.pack("<I", len(content)) + content


def legacy(*pickles, numbers=b""):
    """A file of these pickles, after the magic number."""
    head = pickle.dumps(torch_files.MAGIC_NUMBER, 2)
    return head + b"".join(pickles) + numbers


def of_content(instructions, numbers=b""):
    """A file whose content is what these instructions leave."""
    system = pickle.dumps({"little_endian": True}, 2)
    return legacy(
        pickle.dumps(1001, 2),
        system,
        PROTOCOL + instructions + b".",
        pickle.dumps([], 2),
        numbers=numbers,
    )


def laughs(depth=60):
    """Leaves a tuple of 2**depth texts."""
    parts = [text(b"llllllll"), b"q\x00"]
    parts += [b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth)]
    return b"(" + b"".join(parts) + b"t"


def network(weights):
    return torch_files.legacy_bytes({"state_dict": weights})


def raw_zip(entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def tensor_of(key, shape, size):
    """A tensor that begins a storage of float32 of this key and size."""
    strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
    return Raw(
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\n"
        + text(key.encode())
        + text(b"cpu")
        + pickle.dumps(size, 2)[2:-1]
        + b"NtQK\x00"
        + pickle.dumps(tuple(shape), 2)[2:-1]
        + pickle.dumps(tuple(strides), 2)[2:-1]
        + b"\x89}tR"
    )


def overlapping_zip(size=400_000):
    """A network whose storages are all the same bytes, of another name each."""
    state = random_state("basic", (2, 2, 2, 2), 1, 1, 7, "downsample", "fc")
    weights = {
        name: tensor_of(str(i), value.shape, size // 4)
        for i, (name, value) in enumerate(state.items())
    }
    pickled, _ = torch_files.pickled({"state_dict": weights})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", bytes(size))
        first = archive.getinfo("a/data/0")
        for i in range(1, len(state)):
            entry = zipfile.ZipInfo(f"a/data/{i}")
            for field in ("CRC", "compress_size", "file_size", "header_offset"):
                setattr(entry, field, getattr(first, field))
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True
    return file.getvalue()


def shared_storage():
    """All weights of a network, from the storage of the largest one."""
    state = random_state("basic", (3, 4, 6, 3), 16, 16, 7, "downsample", "fc")
    largest = max(value.size for value in state.values())
    weights = {
        name: tensor_of("0", value.shape, largest)
        for name, value in state.items()
    }
    pickled, _ = torch_files.pickled({"state_dict": weights})
    return legacy(
        pickle.dumps(1001, 2),
        pickle.dumps({"little_endian": True}, 2),
        pickled,
        pickle.dumps(["0"], 2),
        numbers=largest.to_bytes(8, "little") + bytes(4 * largest),
    )


MODULE = b"ctorch.nn.modules.conv\nConv2d\n)\x81"


def of_modules(before, modules):
    """A file whose `net` is the last of these, which is memo 2."""
    return of_content(
        b"}("
        + text(b"x")
        + b"]("
        + before
        + b"".join(modules)
        + b"e"
        + text(b"net")
        + b"h\x02u"
    )


def modules_that_share(number=400):
    """A module in a module, all with one dictionary of many weights."""
    tensor = torch_files.pickled(tensor_of("0", (1,), 1))[0][2:-1]
    items = b"".join(text(b"w%d" % i) + b"h\x00" for i in range(number))
    before = tensor + b"q\x00}q\x01(" + items + b"u"
    step = MODULE + b"}(" + text(b"_parameters") + b"h\x01"
    return of_modules(
        before + MODULE + b"q\x02",
        [step + text(b"_modules") + b"}" + text(b"a") + b"h\x02sub" + b"q\x02"]
        * number,
    )


def doubling_modules(depth=60):
    """Each module holds the next one twice."""
    step = MODULE + b"}" + text(b"_modules") + b"}(" + text(b"a") + b"h\x02"
    return of_modules(
        MODULE + b"q\x02",
        [step + text(b"b") + b"h\x02usb" + b"q\x02"] * depth,
    )


def cyclic_module():
    return of_content(
        b"}"
        + text(b"net")
        + b"ctorch.nn.modules.conv\nConv2d\n)\x81q\x01}"
        + text(b"_modules")
        + b"}"
        + text(b"a")
        + b"h\x01ssbs"
    )


MEGABYTE = 2**20


def cases():
    """Bytes by the name of the case."""
    good = torch_files.legacy_bytes({"state_dict": {"a": np.zeros(9)}})
    zipped = torch_files.zip_bytes({"state_dict": {"a": np.zeros(9)}})
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        + text(b"0")
        + text(b"cpu")
        + b"%sNtQ"
    )
    one = storage % b"K\x01"
    evil = laughs()
    found = {
        # Nested tuples that double.
        "laughs as the protocol": legacy(
            PROTOCOL + evil + b".", pickle.dumps({"little_endian": True}, 2)
        ),
        "laughs as the system": legacy(
            pickle.dumps(1001, 2), PROTOCOL + evil + b"."
        ),
        "laughs as the content": of_content(evil),
        "laughs as a key": of_content(b"}" + evil + b"K\x01s"),
        "laughs as many keys": of_content(b"}(" + evil + b"K\x01u"),
        "laughs as weights": of_content(
            b"}" + text(b"state_dict") + evil + b"s"
        ),
        "laughs as a weight": of_content(
            b"}" + text(b"state_dict") + b"}" + text(b"a") + evil + b"ss"
        ),
        "laughs as a persistent id": of_content(evil + b"Q"),
        "laughs as a storage's key": of_content(
            b"("
            + text(b"storage")
            + b"ctorch\nFloatStorage\n"
            + evil
            + text(b"cpu")
            + b"K\x01NtQ"
        ),
        "laughs as a size": of_content(
            b"("
            + text(b"storage")
            + b"ctorch\nFloatStorage\n"
            + text(b"0")
            + text(b"cpu")
            + evil
            + b"NtQ"
        ),
        "laughs as a shape": of_content(
            tensor + b"(" + one + b"K\x00" + evil + b"K\x01\x85tR"
        ),
        "laughs as a stride": of_content(
            tensor + b"(" + one + b"K\x00" + evil + evil + b"tR"
        ),
        "laughs as arguments": of_content(
            b"ccollections\nOrderedDict\n" + evil + b"R"
        ),
        "laughs called": of_content(evil + b")R"),
        "laughs built": of_content(evil + b"}b"),
        "laughs as a list of keys": legacy(
            pickle.dumps(1001, 2),
            pickle.dumps({"little_endian": True}, 2),
            pickle.dumps({}, 2),
            PROTOCOL + b"]" + evil + b"a.",
        ),
        "DUP": of_content(text(b"l") + b"2\x86" * 60),
        # Lengths and indices.
        "a memo of 4 billion": of_content(
            b"]r\xff\xff\xff\xff]r\xff\xff\xff\x7f"
        ),
        "LONG4 of 2 GB": of_content(b"\x8b\xff\xff\xff\x7f1"),
        "LONG4 of 1 MB": of_content(
            b"\x8b" + struct.pack("<i", MEGABYTE) + b"\x7f" * MEGABYTE
        ),
        "a LONG1 as the protocol": legacy(
            PROTOCOL + b"\x8a\xff" + b"\x7f" * 255 + b"."
        ),
        "an INT of 1 MB": of_content(b"I" + b"9" * MEGABYTE + b"\n"),
        "a LONG of 1 MB": of_content(b"L" + b"9" * MEGABYTE + b"L\n"),
        "bytes of 4 GB": of_content(b"B\xff\xff\xff\xff1"),
        "BINBYTES8": of_content(b"\x8e" + struct.pack("<Q", 2**62)),
        "BYTEARRAY8": of_content(b"\x96" + struct.pack("<Q", 2**33)),
        "BINUNICODE8": of_content(b"\x8d" + struct.pack("<Q", 2**62)),
        "FRAME": of_content(b"\x95" + struct.pack("<Q", 2**62)),
        "FRAME of 8 GB": of_content(b"\x95" + struct.pack("<Q", 2**33)),
        "a negative text": of_content(b"T\xff\xff\xff\xff1"),
        "NEXT_BUFFER": of_content(b"\x97"),
        "protocol 255": legacy(b"\x80\xffK\x01."),
        # Many small things.
        "lists": of_content(b"]" * MEGABYTE),
        "dictionaries": of_content(b"}" * MEGABYTE),
        "marks": of_content(b"(" * MEGABYTE),
        "records": of_content(
            b"cargparse\nNamespace\nq\x00" + b"h\x00)\x81" * (MEGABYTE // 4)
        ),
        "a long pickle": of_content(b"]" * 5 * MEGABYTE),
        "a deep tuple": of_content(b")" + b"\x85" * MEGABYTE),
        "a deep list": of_content(b"]" + b"]" * 500_000 + b"a" * 500_000),
        # The same again and again.
        "dictionaries of one list": of_content(
            b"]("
            + b"]K\x01aK\x02a" * 20_000
            + b"e\x85q\x00"
            + b"ccollections\nOrderedDict\nq\x01"
            + b"h\x01h\x00R" * 50_000
        ),
        "sizes of one list": of_content(
            b"]("
            + b"K\x01" * 100_000
            + b"e\x85q\x00ctorch\nSize\nq\x01"
            + b"h\x01h\x00R" * 50_000
        ),
        "tensors of one shape": of_content(
            b"("
            + b"K\x01" * 100_000
            + b"tq\x00"
            + tensor
            + b"q\x01"
            + one
            + b"q\x02"
            + b"h\x01(h\x02K\x00h\x00h\x00tR" * 50_000
        ),
        "keys of storages": legacy(
            pickle.dumps(1001, 2),
            pickle.dumps({"little_endian": True}, 2),
            PROTOCOL + (storage % b"K\x00") + b".",
            PROTOCOL
            + b"]("
            + text(b"0")
            + b"q\x00"
            + b"h\x00" * 500_000
            + b"e.",
            numbers=bytes(8 * 500_001),
        ),
        # Names and texts in messages.
        "a long name": of_content(b"c" + b"m" * MEGABYTE + b"\nn\n"),
        "a name of controls": of_content(b"cm\x1b[2J\nn\x07\n"),
        "long keys": of_content(b"}(" + text(b"k" * MEGABYTE) + b"K\x01u"),
        "a key of controls": of_content(
            b"}(" + text("\x1b[2J\n\u202e".encode()) + b"K\x01u"
        ),
        "long weights": network({"w" * MEGABYTE: 3}),
        "long weights that are tensors": network(
            {"w" * MEGABYTE: np.zeros(1, np.float32)}
        ),
        # Tensors.
        "a stride of zero": of_content(
            tensor
            + b"("
            + one
            + b"K\x00"
            + pickle.dumps((2**40,), 2)[2:-1]
            + b"K\x00\x85\x89}tR"
        ),
        "a negative stride": of_content(
            tensor + b"(" + one + b"K\x00K\x01\x85J\xff\xff\xff\xff\x85\x89}tR"
        ),
        "a negative offset": of_content(
            tensor + b"(" + one + b"J\xff\xff\xff\xffK\x01\x85K\x01\x85\x89}tR"
        ),
        "a huge storage": of_content(storage % pickle.dumps(2**60, 2)[2:-1]),
        "many axes": of_content(
            tensor
            + b"("
            + one
            + b"K\x00("
            + b"K\x01" * 1000
            + b"t("
            + b"K\x01" * 1000
            + b"t\x89}tR"
        ),
        "a storage in a tensor's place": of_content(
            b"}" + text(b"net") + b"}" + text(b"a") + one + b"ss"
        ),
        "one storage for all": shared_storage(),
        "a width from empty weights": network(
            {
                "conv1.weight": np.zeros((64, 3, 7, 7), np.float32),
                "layer1.0.conv1.weight": np.zeros((2**30, 0, 3, 3), "float32"),
                "fc.weight": np.zeros((2**30, 0), np.float32),
            }
        ),
        # Modules.
        "modules that share": modules_that_share(),
        "doubling modules": doubling_modules(),
        "a cycle": cyclic_module(),
        "a list in itself": of_content(b"]q\x00h\x00a"),
        # Zip files.
        "a packed zip": torch_files.zip_bytes(
            {"net": {"a": np.zeros(10**7, np.float32)}}, zipfile.ZIP_DEFLATED
        ),
        "a packed pickle": _packed_pickle(),
        "overlapping entries": overlapping_zip(),
        "many entries": raw_zip(
            [("a/data.pkl", b"\x80\x02}.")]
            + [(f"a/data/{i}", b"") for i in range(20_000)]
        ),
        "long names": raw_zip(
            [("a/data.pkl", b"\x80\x02}."), ("x\x1b" * 30_000, b"")]
        ),
        "two pickles": raw_zip([("a/data.pkl", b"."), ("b/data.pkl", b".")]),
        "no pickle": raw_zip([("a/data", b".")]),
        "an empty pickle": raw_zip([("a/data.pkl", b"")]),
        "laughs in a zip": raw_zip([("a/data.pkl", PROTOCOL + evil + b".")]),
        "a long byte order": raw_zip(
            [("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"b" * MEGABYTE)]
        ),
        "big-endian": raw_zip(
            [("a/data.pkl", b"\x80\x02}."), ("a/byteorder", b"big")]
        ),
        "a zip of zeros": b"PK\x03\x04" + bytes(MEGABYTE),
        "zeros": bytes(MEGABYTE),
        "a zip's end": b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18,
    }
    for cut in (10, 50, len(good) // 2, len(good) - 1):
        found[f"cut at {cut}"] = good[:cut]
    for cut in (10, 50, len(zipped) // 2, len(zipped) - 1):
        found[f"zip cut at {cut}"] = zipped[:cut]
    for name in ("header_offset", "file_size", "compress_size"):
        found[f"zip of a wrong {name}"] = _damaged_directory(zipped, name)
    for name in (
        "lib.NCEAverage.NCEAverage",
        "argparse.Namespace",
        "torch.FloatStorage",
        "torch.Size",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_parameter",
        "collections.OrderedDict",
        "torch.nn.modules.conv.Conv2d",
        "os.system",
        "builtins.eval",
        "torch.nn.modules.__builtins__.eval",
    ):
        module, _, attribute = name.rpartition(".")
        for kind, arguments in (
            ("nothing", ()),
            ("a text", ("touch /tmp/never",)),
            ("lists", ([[[]]], [[]])),
            ("itself", (Named(module, attribute),)),
        ):
            found[f"{name} called with {kind}"] = torch_files.legacy_bytes(
                {"net": Call(Named(module, attribute), *arguments)}
            )
        found[f"{name} with a state"] = torch_files.legacy_bytes(
            {"net": Module(module, attribute, {"__class__": 1}, False)}
        )
    return found


def _packed_pickle():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"]" * 50 * MEGABYTE)
    return file.getvalue()


def _damaged_directory(data, field):
    """The first entry of the central directory, with a field of all ones."""
    place = data.index(b"PK\x01\x02")
    offset = {"compress_size": 20, "file_size": 24, "header_offset": 42}[field]
    place += offset
    return data[:place] + b"\xfe\xff\xff\xff" + data[place + 4 :]
