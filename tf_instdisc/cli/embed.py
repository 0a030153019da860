r"""Embeds images: a folder or, with --runner, a dataset, table or records.

After an interruption, the same command continues.

Examples:
  instdisc-embed --run_dir=runs/photos --images=FOLDER --output=photos.npz
  instdisc-embed --run_dir=runs/photos --runner=DirectRunner \
    --table=paths.csv --output=photos.parquet
"""

import dataclasses
import functools
import itertools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tf_instdisc.checksums import sha256_of_file
from tf_instdisc.cli.embed_settings import EmbedOptions
from tf_instdisc.config.fields import Settings, require_one, setting
from tf_instdisc.errors import UsageError, require_extra
from tf_instdisc.paths import is_url, local_path
from tf_instdisc.text import lines_of, shown

if TYPE_CHECKING:
    from tf_instdisc.serving.client.client import Client
    from tf_instdisc.serving.embedder import Embedder


@dataclasses.dataclass(frozen=True)
class ModelOptions(Settings):
    """Model"""

    run_dir: str | None = setting(
        None,
        "Directory of a finished run, or the name of trained weights.",
        is_path=True,
    )
    saved_model: str | None = setting(
        None,
        "Directory of an exported model, or of a version, to embed with.",
        is_path=True,
    )
    server: str | None = setting(
        None, "Address host:port of a server to embed with over gRPC."
    )
    rest: str | None = setting(
        None, "Address http://host:port of a server to embed with over REST."
    )
    model_name: str | None = setting(
        None, "Name of the model on --server or --rest."
    )
    label: str | None = setting(
        None,
        "Label of the version; over REST, do not move it meanwhile.",
    )
    root_certificates: str | None = setting(
        None,
        "PEM file of certificates, to use TLS with --server or --rest.",
        is_path=True,
    )
    deadline: float = setting(
        60.0, "Maximum seconds for one batch on a server.", least=0.1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        given = require_one(self, ("run_dir", "saved_model", "server", "rest"))
        is_served = given in ("server", "rest")
        if is_served != (self.model_name is not None):
            raise UsageError(
                "`model_name` is required with `server` and `rest`, and only "
                f"with them. Received: `model_name`={self.model_name} and "
                f"`{given}`={getattr(self, given)}. "
                f"{'Give it.' if is_served else 'Leave it out.'}"
            )


SETTINGS = [EmbedOptions, ModelOptions]


def main(options: EmbedOptions, model: ModelOptions) -> None:
    """Embeds images into a file, or by a pipeline into many."""
    if options.runner is not None:
        _embed_by_pipeline(options, model)
        return
    if options.output.endswith(".parquet"):
        require_extra("parquet", "pyarrow")

    from tf_instdisc.runs.embedding import gpus
    from tf_instdisc.serving.embed_folder import embed_folder
    from tf_instdisc.serving.embedder import BATCH_SIZE, one_by_one

    batch_size = options.batch_size or BATCH_SIZE
    embedder, source = _embedder(model, batch_size)
    outcome = embed_folder(
        options.images or "",
        options.output,
        one_by_one(embedder),
        source,
        batch_size,
        # One batch is read while another one is embedded, on each GPU.
        num_workers=max(2, len(gpus()) if model.run_dir else 0),
    )
    print(f"{outcome.num_embedded} images in {shown(options.output)}")
    if outcome.failed:
        print(
            f"{len(outcome.failed)} images could not be read, listed in "
            f"{shown(options.output)}.failed.txt:{lines_of(outcome.failed)}",
            file=sys.stderr,
        )


def _embed_by_pipeline(options: EmbedOptions, model: ModelOptions) -> None:
    require_extra("beam", "apache_beam", "pyarrow")

    from tf_instdisc.serving import embed_beam, embed_inputs
    from tf_instdisc.serving.embedder import BATCH_SIZE

    images: embed_inputs.Images
    if options.images is not None:
        images = embed_inputs.Folder(_absolute(options.images))
    elif options.table is not None:
        table = _absolute(options.table)
        images = embed_inputs.PathTable(table, options.column)
    elif options.records is not None:
        records = _absolute(options.records)
        images = embed_inputs.Records(records, options.image_key)
    else:
        images = embed_inputs.Split(
            options.dataset or "",
            options.split,
            options.data_dir and _absolute(options.data_dir),
            options.image_key,
        )
    # A model that cannot be loaded fails here, not on all workers.
    batch_size = options.batch_size or BATCH_SIZE
    model = _with_absolute_paths(model)
    _, digest = _embedder(model, batch_size)
    task = embed_beam.Task(
        images=images,
        output=_absolute(options.output),
        load=functools.partial(worker_embedder, model, batch_size),
        digest=digest,
        batch_size=batch_size,
        dtype=options.dtype,
        images_per_file=options.images_per_file,
    )
    done = embed_beam.run(task, options.runner or "", options.beam_options)
    if not done["num_rows"]:
        raise UsageError(
            f"No image can be read. Received: {done['num_images']} images, "
            f"listed in {shown(options.output)}/_failed-*.tsv"
        )
    print(f"{done['num_rows']} images in {shown(options.output)}")
    if done["num_failed"]:
        print(
            f"{done['num_failed']} images could not be read, listed in "
            f"{shown(options.output)}/_failed-*.tsv",
            file=sys.stderr,
        )


def _absolute(path: str) -> str:
    """Returns a path for workers that run elsewhere; URLs are kept."""
    return path if is_url(path) else os.path.abspath(path)


def _with_absolute_paths(model: ModelOptions) -> ModelOptions:
    """Returns a model for workers; names of shipped weights are kept."""
    given = {
        name: getattr(model, name)
        for name in ("run_dir", "saved_model", "root_certificates")
    }
    paths = {
        name: os.path.abspath(path)
        for name, path in given.items()
        if path and os.path.exists(path)
    }
    return dataclasses.replace(model, **paths)


def worker_embedder(options: ModelOptions, batch_size: int) -> "Embedder":
    """Returns the model for a worker."""
    from tf_instdisc.serving.embedder import one_by_one

    return one_by_one(_embedder(options, batch_size)[0])


def _embedder(options: ModelOptions, batch_size: int) -> tuple["Embedder", str]:
    """Returns the model as a function, and text that identifies it."""
    if options.server or options.rest:
        client, source = open_client(options, batch_size)
        return client.embed_bytes, source
    if options.saved_model:
        return _from_saved_model(options.saved_model)
    return run_embedder(options.run_dir or "")


def open_client(options: ModelOptions, batch_size: int) -> tuple["Client", str]:
    """Returns a client of one version, and text that identifies it.

    Raises:
        ServingError: If the server does not respond.
    """
    from tf_instdisc.serving.client.over_grpc import GrpcClient
    from tf_instdisc.serving.client.over_rest import RestClient

    kind = RestClient if options.rest else GrpcClient
    address = options.rest or options.server or ""
    client_of = functools.partial(
        kind,
        address,
        options.model_name or "",
        deadline=options.deadline,
        batch_size=batch_size,
        root_certificates=options.root_certificates
        and local_path(options.root_certificates, "root_certificates"),
    )
    version, label = None, options.label or None
    if label is None:
        # All images use one version, even if another is published meanwhile.
        with client_of() as client:
            states = client.status()
        version = max(
            (v for v, state in states.items() if state == "AVAILABLE"),
            default=None,
        )
    elif options.server:
        with client_of(label=label) as client:
            assert isinstance(client, GrpcClient)
            version = client.version_of_label()
    if version is not None:
        label = None
    elif label is not None:
        print(
            f"The server does not say which version is {shown(label)}. Do not "
            "move it meanwhile; otherwise, the output mixes two versions.",
            file=sys.stderr,
        )
    client = client_of(version=version, label=label)
    return client, f"{address} {options.model_name} {label or version}"


def _from_saved_model(saved_model: str) -> tuple["Embedder", str]:
    import tensorflow as tf

    from tf_instdisc.serving import versions

    path = versions.newest_version(saved_model)
    model = versions.load(path)
    if "image_bytes" not in model.signatures:
        raise UsageError(
            "`saved_model` must have the signature image_bytes. Received: "
            f"{', '.join(model.signatures)}"
        )

    def embed(contents: Sequence[bytes]) -> dict[str, Any]:
        signature = model.signatures["image_bytes"]
        return signature(image_bytes=tf.constant(contents))

    return embed, f"SavedModel {sha256_of_file(path / 'fingerprint.pb')}"


def run_embedder(run_dir: str) -> tuple["Embedder", str]:
    """Returns a run's encoder as a function of files, and its identity.

    With several GPUs, each has a copy, and successive calls use successive
    copies.
    """
    from tf_instdisc.runs import opening

    run = opening.load(run_dir)

    import tensorflow as tf

    from tf_instdisc.config.data import MAX_PIXELS
    from tf_instdisc.runs.embedding import gpus
    from tf_instdisc.runs.load import load_encoder
    from tf_instdisc.serving.options import ExportOptions
    from tf_instdisc.serving.signatures import build_serving

    crop_fraction = run.read_config().data.crop_fraction
    # As in training; the default of an export protects a server.
    options = ExportOptions(crop_fraction=crop_fraction, max_pixels=MAX_PIXELS)
    copies = []
    devices: list[str | None] = [*gpus()]
    for device in devices or [None]:
        with tf.device(device):
            functions, _ = build_serving(load_encoder(run_dir), None, options)
        copies.append((device, functions["image_bytes"]))
    next_copy = itertools.cycle(copies)

    def embed(contents: Sequence[bytes]) -> dict[str, Any]:
        device, function = next(next_copy)
        with tf.device(device):
            return function(tf.constant(contents))

    return embed, f"encoder {run.encoder_digest()}"
