"""Builds an index of a run's bank, or of a file written by instdisc-embed.

Examples:
  instdisc-index --run_dir=runs/photos --output=indexes/photos
  instdisc-index --embeddings=photos.npz --output=indexes/photos --kind=hnsw
"""

import dataclasses
import sys

from tf_instdisc import remote
from tf_instdisc.cli.options import require_endings
from tf_instdisc.config.fields import Settings, require_one, setting
from tf_instdisc.serving.options import IndexOptions


@dataclasses.dataclass(frozen=True)
class RowsOptions(Settings):
    """Rows and output"""

    run_dir: str | None = setting(
        None,
        "Directory of a finished run, or the name of trained weights.",
        is_path=True,
    )
    embeddings: str | None = setting(
        None,
        "Written by instdisc-embed: an .npz or .parquet file, or the directory "
        "of a --runner.",
        is_path=True,
    )
    output: str = setting(
        None,
        "Directory of the index, into which the next numbered version is "
        "written.",
        is_path=True,
        is_required=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one(self, ("run_dir", "embeddings"))
        if self.embeddings is not None:
            require_endings(
                "embeddings", [self.embeddings], (".npz", ".parquet")
            )


SETTINGS = [RowsOptions, IndexOptions]


def main(given: RowsOptions, options: IndexOptions) -> None:
    """Builds the index, and prints its recall."""
    from tf_instdisc.runs import opening
    from tf_instdisc.serving import index_directory

    digests = {}
    if given.run_dir is not None:
        run = opening.load(given.run_dir)
        bank = run.load_bank()
        digests["encoder"] = run.encoder_digest()
        digests["bank_digest"] = run.bank_digest()
    else:
        bank, digests["encoder"] = index_directory.read_embeddings(
            given.embeddings or ""
        )
    version = index_directory.write_index(
        bank, given.output, options, **digests
    )
    facts = index_directory.read_facts(version)
    print(
        f"index: {remote.shown_path(version)}\n"
        f"{facts.num_rows:,} rows of {facts.dim} numbers, {facts.kind}, "
        f"recall@{facts.num_neighbors} {facts.recall:.3f}"
    )
    if facts.recall < options.target_recall:
        print(
            f"The recall is below --target_recall={options.target_recall:g}. "
            "--kind=partitioned reaches it.",
            file=sys.stderr,
        )
