"""instdisc-convert: a checkpoint of PyTorch becomes a run directory."""

from tf_instdisc.cli.flag_groups import convert
from tf_instdisc.cli.launch import launch
from tf_instdisc.text import shown

GROUPS = (convert,)

_SUMMARY = """
Turns the authors' released checkpoints, and CMC's of instance discrimination,
into a run directory. Nothing of the file is run, and PyTorch is not needed.

  instdisc-convert --from=lemniscate_resnet18.pth --to=runs/authors
"""


def main() -> None:
    """Entry point of `instdisc-convert`."""
    launch(_convert, _SUMMARY, GROUPS)


def _convert() -> None:
    from tf_instdisc.runs.convert import checkpoint

    run = checkpoint.convert(
        convert.FROM.value or "",
        convert.TO.value or "",
        convert.IMAGE_SIZE.value,
        convert.IMAGES.value,
    )
    print(f"encoder: {shown(str(run.encoder))}")
    if run.bank.exists():
        print(
            f"bank: {shown(str(run.bank))}, {len(run.load_bank().rows):,} rows"
        )
    else:
        print("The checkpoint has no memory bank; the run has none either.")


if __name__ == "__main__":
    main()
