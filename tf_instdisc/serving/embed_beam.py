"""Embeds any number of images by Apache Beam, one Parquet file at a time.

The output is a directory:

- `part-NNNNN-of-NNNNN.parquet` has the rows of `--images_per_file` images,
- `_failed-NNNNN.tsv` lists those of them that could not be embedded,
- `_names.parquet` has the names of all images, one row group for each file,
- `_task.json` describes what is to be embedded, and `_manifest.json`, which is
  written last, what has been embedded.

Each file appears under its name when it is complete, so that a restarted
pipeline skips the files that exist. Programs that read a directory of Parquet
files ignore names that begin with an underscore.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

import apache_beam as beam
import numpy as np
import pyarrow
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils import shared
from pyarrow import parquet

from tf_instdisc import errors
from tf_instdisc.data.image_files import read_files
from tf_instdisc.errors import UsageError
from tf_instdisc.serving import beam_files
from tf_instdisc.serving.embed_inputs import Images, Numbered
from tf_instdisc.serving.embedder import (
    BATCH_SIZE,
    Embedder,
    embed_in_batches,
)
from tf_instdisc.serving.embedding_file import table_of
from tf_instdisc.text import shown

MANIFEST = "_manifest.json"
_NAMES = "_names.parquet"
_TASK = "_task.json"
_FACTS = b"instdisc"
_OUR_ERROR = re.compile(r"^tf_instdisc\.errors\.(\w+): (.*)", re.MULTILINE)

# Without it, `DirectRunner` first tries to download another runner, Prism. This
# pipeline has no triggers.
_WITHOUT_PRISM = "--allow_unsafe_triggers"


@dataclasses.dataclass(frozen=True)
class Task:
    """What a pipeline does, as each of its workers receives it.

    Attributes:
        images: The images.
        output: Directory of the output: a path, or a URL that Beam opens.
        load: Returns the model, which marks bad images, as `one_by_one` does;
            called once in each process.
        digest: Identifies the model.
        batch_size: Number of images in each call of the model.
        dtype: As in `table_of`.
        images_per_file: Number of images in each file of the output.
        num_images: Number of images in all.
        identity: Hash of everything that the rows depend on.
    """

    images: Images
    output: str
    load: Callable[[], Embedder]
    digest: str
    batch_size: int = BATCH_SIZE
    dtype: str = "float32"
    images_per_file: int = 4096
    num_images: int = 0
    identity: str = ""

    @property
    def num_files(self) -> int:
        """Number of files of the output."""
        return -(-self.num_images // self.images_per_file)

    def path(self, name: str) -> str:
        """Returns the path of a file of the output."""
        return FileSystems.join(self.output, name)


@beam_files.reporting()
def run(task: Task, runner: str, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Embeds all images; the same call continues after an interruption.

    Args:
        task: What to do; `num_images` and `identity` are found here.
        runner: Name of a runner of Beam.
        flags: More options of Beam, such as `--direct_num_workers=2`.

    Returns:
        The contents of `_manifest.json`: `num_images`, `num_rows`,
        `num_failed` and, for each of `files`, its `name`, `num_rows` and
        `num_failed`; `digest`, `dtype`, `images_per_file` and `images`, a hash
        of the images' names.

    Raises:
        ValueError: If the output holds anything else or is a URL of an
            unknown kind, or there is no image.
        StorageError: If images cannot be read for now, or the output cannot be
            read or written.
    """
    options = PipelineOptions([f"--runner={runner}", _WITHOUT_PRISM, *flags])
    FileSystems.set_options(options)
    beam_files.require_known(task.output)
    task = _begin(task)
    if not FileSystems.exists(task.path(MANIFEST)):
        _ = (
            (pipeline := beam.Pipeline(options=options))
            | beam.Create(range(task.num_files), reshuffle=False)
            | beam.Reshuffle()
            | beam.ParDo(_EmbedFile(task))
            | beam.combiners.ToList()
            | beam.Map(lambda files: _finish(task, files))
        )
        try:
            pipeline.run().wait_until_finish()
        except RuntimeError as error:
            # Beam gives the error of a worker process as text.
            for name, message in _OUR_ERROR.findall(str(error))[-1:]:
                raise getattr(errors, name)(message) from error
            raise
    return beam_files.read_json(task.path(MANIFEST))


def _begin(task: Task) -> Task:
    """Lists the images, and writes or checks `_task.json`.

    An existing one must describe the same task.
    """
    begun = FileSystems.exists(task.path(_TASK))
    # A pipeline that was killed early has left only names with underscores.
    if not begun and beam_files.matching(task.path("[!_]*")):
        raise UsageError(
            "`output` must not exist, or hold the beginning of the same "
            f"pipeline. Received: output={task.output!r}"
        )
    with contextlib.ExitStack() as stack:
        if isinstance(task.images, Numbered):
            numbered = task.images.open()
            size, contents = numbered.size, numbered.contents
            digest = hashlib.sha256(contents.encode()).hexdigest()
        else:
            names = stack.enter_context(beam_files.replacing(task.path(_NAMES)))
            size, digest = _write_names(
                names, task.images.names(), task.images_per_file
            )
        if not size:
            raise UsageError("There must be an image to embed. Received: none.")
        facts = {
            "digest": task.digest,
            "images": digest,
            "num_images": size,
            "dtype": task.dtype,
            "images_per_file": task.images_per_file,
        }
        if begun:
            earlier = beam_files.read_json(task.path(_TASK))
            changed = [key for key in facts if facts[key] != earlier.get(key)]
            if changed:
                raise UsageError(
                    "`output` must hold the beginning of the same pipeline. "
                    f"Received: output={task.output!r}, whose "
                    f"{', '.join(changed)} differ. Remove it, or choose "
                    "another `output`."
                )
    text = json.dumps(facts, indent=1)
    if not begun:
        beam_files.write_text(task.path(_TASK), text)
    identity = hashlib.sha256(text.encode()).hexdigest()
    return dataclasses.replace(task, num_images=size, identity=identity)


def _write_names(
    file: IO[bytes], names: Iterator[str], images_per_file: int
) -> tuple[int, str]:
    """Writes all names; returns their number and a hash of them."""
    size, digest = 0, hashlib.sha256()
    schema = pyarrow.schema({"name": pyarrow.string()})
    with parquet.ParquetWriter(file, schema) as writer:
        while part := list(itertools.islice(names, images_per_file)):
            text = "".join(f"{json.dumps(name)}\n" for name in part)
            digest.update(text.encode())
            writer.write_table(pyarrow.table({"name": part}, schema))
            size += len(part)
    return size, digest.hexdigest()


class _EmbedFile(beam.DoFn):
    """Writes the output file of each number and yields its manifest entry."""

    def __init__(self, task: Task):
        self._task = task
        self._shared = shared.Shared()

    def process(self, number: int) -> Iterator[dict[str, Any]]:
        yield self._entry(number)

    @beam_files.reporting()
    def _entry(self, number: int) -> dict[str, Any]:
        task = self._task
        name = f"part-{number:05d}-of-{task.num_files:05d}.parquet"
        facts = _facts_of(task.path(name))
        if facts is None or facts["identity"] != task.identity:
            embedder = self._shared.acquire(task.load)
            facts = _write_file(task, number, task.path(name), embedder)
        del facts["identity"]
        return {"name": name, **facts}


def _facts_of(path: str) -> dict[str, Any] | None:
    """Returns what a complete file of the output says in its metadata."""
    if not FileSystems.exists(path):
        return None
    try:
        with beam_files.open_read(path) as file:
            metadata = parquet.read_metadata(file).metadata
        return json.loads(metadata[_FACTS])
    except (pyarrow.ArrowException, KeyError, TypeError, ValueError):
        return None


def _write_file(
    task: Task, number: int, path: str, embedder: Embedder
) -> dict[str, Any]:
    first = number * task.images_per_file
    names, contents = _inputs(task, number)
    rows, kept, reasons = embed_in_batches(contents, embedder, task.batch_size)
    failed = "".join(
        f"{first + i}\t{shown(names[i])}\t"
        f"{shown(reasons[i]) or 'not an image that can be decoded'}\n"
        for i in np.flatnonzero(~kept)
    )
    # Written first, as the other file says that this number is done.
    _write_failed(task.path(f"_failed-{number:05d}.tsv"), failed)
    table = table_of(
        first + np.flatnonzero(kept),
        [names[i] for i in np.flatnonzero(kept)],
        rows[kept],
        task.digest,
        task.dtype,
    )
    facts = {
        "identity": task.identity,
        "num_rows": int(kept.sum()),
        "num_failed": int((~kept).sum()),
    }
    table = table.replace_schema_metadata({_FACTS: json.dumps(facts)})
    with beam_files.replacing(path) as file:
        parquet.write_table(table, file)
    return facts


def _inputs(
    task: Task, number: int
) -> tuple[list[str], Iterator[tuple[bytes, str]]]:
    """Returns the names of a file's images, and reads them."""
    if isinstance(task.images, Numbered):
        numbered = task.images.open()
        first = number * task.images_per_file
        size = min(task.images_per_file, task.num_images - first)
        names = [f"{numbered.name}/{i}" for i in range(first, first + size)]
        return names, ((file, "") for file in numbered.read(first, size))
    with beam_files.open_read(task.path(_NAMES)) as file:
        table = parquet.ParquetFile(file).read_row_group(number)
    names = table["name"].to_pylist()
    return names, read_files(task.images.folder, names)


def _write_failed(path: str, failed: str) -> None:
    if failed:
        beam_files.write_text(path, f"id\tname\treason\n{failed}")
    elif FileSystems.exists(path):
        FileSystems.delete([path])


@beam_files.reporting()
def _finish(task: Task, files: list[dict[str, Any]]) -> None:
    """Writes the manifest, and removes what killed workers left behind."""
    files = sorted(files, key=lambda facts: facts["name"])
    leftovers = beam_files.matching(task.path(f"{beam_files.PARTIAL}*"))
    if leftovers:
        FileSystems.delete(leftovers)
    facts = beam_files.read_json(task.path(_TASK))
    for key in ("num_rows", "num_failed"):
        facts[key] = sum(file[key] for file in files)
    text = json.dumps({**facts, "files": files}, indent=1)
    beam_files.write_text(task.path(MANIFEST), text)
