"""Converts a PyTorch checkpoint to a run directory.

It reads the authors' released checkpoints, and CMC's of instance
discrimination. No code in the file is executed, and PyTorch is not needed.

Example:
  instdisc-convert --from=lemniscate_resnet18.pth --to=runs/authors
"""

import dataclasses

from tf_instdisc import remote
from tf_instdisc.config.fields import Settings, setting


@dataclasses.dataclass(frozen=True)
class ConvertOptions(Settings):
    """Conversion"""

    from_: str = setting(
        None,
        "PyTorch checkpoint, as it was downloaded.",
        is_path=True,
        is_required=True,
        flag="from",
    )
    to: str = setting(
        None,
        "Run directory to write; missing or empty.",
        is_path=True,
        is_required=True,
    )
    image_size: int | None = setting(
        None,
        "Side of the encoder's input in pixels; by default, 32 for checkpoints "
        "of the authors' cifar.py and 224 for others.",
        least=8,
    )
    images: str | None = setting(
        None,
        "Folder of the bank's images, with a subfolder for each class, which "
        "gives the rows their names and labels.",
        is_path=True,
    )


SETTINGS = [ConvertOptions]


def main(options: ConvertOptions) -> None:
    """Converts a checkpoint, and prints what it contained."""
    from tf_instdisc.runs.convert import checkpoint

    run = checkpoint.convert(
        options.from_, options.to, options.image_size, options.images
    )
    print(f"encoder: {remote.shown_path(run.encoder)}")
    if run.bank.exists():
        bank = remote.shown_path(run.bank)
        print(f"bank: {bank}, {len(run.load_bank().rows):,} rows")
    else:
        print("The checkpoint has no memory bank; the run has none either.")
