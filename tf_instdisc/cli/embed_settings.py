"""The images and the output of `instdisc-embed`, and its pipeline."""

import dataclasses

from tf_instdisc.cli.options import require_endings
from tf_instdisc.config.data import data_dir_setting
from tf_instdisc.config.fields import Settings, require_one, setting
from tf_instdisc.errors import UsageError

_RUNNERS = (
    "DirectRunner",
    "DataflowRunner",
    "FlinkRunner",
    "SparkRunner",
    "PortableRunner",
)
# The other settings need --runner.
_ALONE = ("images", "output", "batch_size", "runner")
_OF = {
    "split": ("dataset",),
    "data_dir": ("dataset",),
    "image_key": ("dataset", "records"),
    "column": ("table",),
}


@dataclasses.dataclass(frozen=True)
class EmbedOptions(Settings):
    """Images and output"""

    images: str | None = setting(None, "Folder of images.", is_path=True)
    output: str = setting(
        None,
        "File to write: .npz, or .parquet (pip install "
        "'tf_instdisc[parquet]'). With --runner, a directory that ends in "
        ".parquet.",
        is_path=True,
        is_required=True,
    )
    batch_size: int | None = setting(
        None,
        "Images per batch: 32.",
        least=1,
    )
    runner: str | None = setting(
        None,
        "Runner of a Beam pipeline, here or on a cluster (pip install "
        "'tf_instdisc[beam]').",
        choices=_RUNNERS,
    )
    beam_options: tuple[str, ...] = setting(
        (),
        "Option of the runner, such as --direct_num_workers=2. Repeat the flag "
        "for more.",
        flag="beam_option",
        is_repeatable=True,
    )
    dataset: str | None = setting(
        None, "With --runner: TFDS dataset, in place of --images."
    )
    split: str = setting("train", "Split of --dataset.")
    data_dir: str | None = data_dir_setting()
    records: str | None = setting(
        None,
        "With --runner: folder of TFRecord files of tf.train.Example, in place "
        "of --images.",
        is_path=True,
    )
    image_key: str | None = setting(
        None,
        "Feature of --dataset or --records that holds the images; image (or "
        "image/encoded) by default.",
    )
    table: str | None = setting(
        None,
        "With --runner: .parquet or .csv file of paths or URLs of images, in "
        "place of --images. Relative paths belong to its folder.",
        is_path=True,
    )
    column: str = setting("path", "Column of --table with the paths or URLs.")
    dtype: str = setting(
        "float32",
        "With --runner: type of the embeddings. int8 adds the column scale.",
        choices=("float32", "float16", "int8"),
    )
    images_per_file: int = setting(
        4096,
        "With --runner: images in each file of the output, which are embedded "
        "again if the file was not complete.",
        least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one(self, ("images", "dataset", "table", "records"))
        for field in dataclasses.fields(self):
            name, value = field.name, getattr(self, field.name)
            needed = _OF.get(name, ())
            if value == field.default or name in _ALONE:
                continue
            if self.runner is None:
                needed = ("runner",)
            if needed and all(getattr(self, n) is None for n in needed):
                either = " or ".join(f"`{other}`" for other in needed)
                raise UsageError(
                    f"`{name}` needs {either}. Received: `{name}`={value}. "
                    "Give both, or neither."
                )
        if self.table is not None:
            require_endings("table", [self.table], (".parquet", ".csv"))
        endings = (".npz", ".parquet") if self.runner is None else (".parquet",)
        require_endings("output", [self.output], endings)
        for option in self.beam_options:
            if not option.startswith("--"):
                raise UsageError(
                    "`beam_options` must begin with --. Received: "
                    f"`beam_options`={option}"
                )
