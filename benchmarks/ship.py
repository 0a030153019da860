"""Packs a finished run as one that comes with the package.

python -m benchmarks.ship RUN tf_instdisc/weights/NAME
"""

import pathlib
import sys
from typing import Any

import numpy as np

from tf_instdisc import checksums
from tf_instdisc.portable import make_portable
from tf_instdisc.runs import bank as bank_file
from tf_instdisc.runs import opening, shipped
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.policy import with_policy

# The largest error of a normal float16 is 2^-9 of it, half that of bfloat16.
_DROPPED_BITS = 1


def pack(run: RunDirectory, folder: pathlib.Path) -> None:
    """Writes the files of a shipped run.

    Args:
        run: A finished run.
        folder: A directory to create; its last part is the name. Its model
            card, a README.md, is written by hand.
    """
    record = run.read_record().with_data(data_dir=None)
    bank = run.load_bank()
    fields: dict[str, Any] = bank_file.instances_of(bank)
    fields["int8_rows"], _ = bank_file.quantize(bank.rows, "int8")
    encoder = with_policy(load_encoder(run.path), "float32")
    fields["architecture"] = np.array(make_portable(encoder).to_json())
    for i, weight in enumerate(encoder.get_weights()):
        if weight.ndim < 2:
            fields[f"full_{i}"] = weight
        else:
            fields[f"high_{i}"], fields[f"low_{i}"] = _halves(weight)
    folder.mkdir(parents=True)
    with checksums.replacing(folder / shipped.WEIGHTS) as partial:
        np.savez_compressed(partial, **fields)
    RunDirectory(folder).save_record(record)


def _halves(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the high and the low bytes of float16 values.

    Apart, they are compressed better: the high bytes of a kernel are alike.
    """
    step = 1 << _DROPPED_BITS
    bits = weight.astype(np.float16).view(np.uint16)
    bits = (bits + step // 2) // step * step
    return (bits >> 8).astype(np.uint8), bits.astype(np.uint8)


if __name__ == "__main__":
    pack(opening.load(sys.argv[1]), pathlib.Path(sys.argv[2]))
