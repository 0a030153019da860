"""Compares the neighbors, the kNN accuracy and the embeddings of two runs.

Example:
  instdisc-diff RUN_A RUN_B --output=drift.tsv
"""

import dataclasses
from typing import TYPE_CHECKING

from tf_instdisc.cli.options import make_folders, require_file
from tf_instdisc.config.fields import Settings, setting

if TYPE_CHECKING:
    from tf_instdisc.runs.directory import RunDirectory

_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class DiffOptions(Settings):
    """Comparison"""

    num_neighbors: int = setting(20, "Number of neighbors to compare.", least=1)
    output: str | None = setting(
        None,
        "TSV file to write, with a line for each of at most 10,000 images.",
        is_path=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_file("output", self.output)


SETTINGS = [DiffOptions]
NUM_ARGUMENTS = 2


def main(options: DiffOptions, first: str, second: str) -> None:
    """Prints the comparison, and writes a line for each compared image."""
    import numpy as np

    from tf_instdisc import atomic
    from tf_instdisc.retrieval.compare_runs import compare
    from tf_instdisc.runs import opening
    from tf_instdisc.text import shown, tsv

    runs = [opening.load(path) for path in (first, second)]
    make_folders(options.output)
    found = compare(
        runs[0].load_bank(),
        runs[1].load_bank(),
        options.num_neighbors,
    )
    print(
        f"common images: {found.num_common}, only in {shown(first)}: "
        f"{found.num_only[0]}, only in {shown(second)}: {found.num_only[1]}"
    )
    for path, run in zip((first, second), runs, strict=True):
        print(f"kNN top-1 of {shown(path)}: {_last_knn(run)}")
    print(
        f"shared neighbors at {options.num_neighbors}: "
        f"{found.shared_neighbors.mean():.3f}"
    )
    drift = f"mean {found.drift.mean():.4f}, max {found.drift.max():.4f}"
    if np.isnan(found.drift).any():
        drift = "not defined, because the rows have different widths"
    print(f"drift: {drift}")
    lines = [
        (name, f"{shared:.4f}", f"{drift:.6f}")
        for name, shared, drift in zip(
            found.names, found.shared_neighbors, found.drift, strict=True
        )
    ]
    order = np.argsort(found.shared_neighbors, kind="stable")
    header = ("name", "shared_neighbors", "drift")
    print("images that changed most:")
    print(tsv(header, [lines[i] for i in order[:_SHOWN]]), end="")
    if options.output:
        atomic.write_text(options.output, tsv(header, lines))
        print(shown(options.output))


def _last_knn(run: "RunDirectory") -> str:
    values = [e["knn_top1"] for e in run.read_metrics() if "knn_top1" in e]
    return f"{values[-1]:.4f}" if values else "not measured"
