"""instdisc-embed: a folder of images to a file of embeddings."""

import hashlib
import os
import pathlib
import sys

from tf_instdisc.cli.flag_groups import embedding, finished_run
from tf_instdisc.cli.launch import launch
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.text import shown

GROUPS = (embedding, finished_run)

_SUMMARY = """
Embeds a folder of images; started again after a stop, it goes on.

  instdisc-embed --run_dir=runs/photos --images=FOLDER --output=photos.npz
"""

_NAMED_AT_MOST = 20


def main() -> None:
    """Entry point of `instdisc-embed`."""
    launch(_embed, _SUMMARY, GROUPS)


def _embed() -> None:
    output = embedding.OUTPUT.value or ""
    if output.endswith(".parquet"):
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError(
                "A .parquet output needs pyarrow: "
                "pip install 'tf_instdisc[parquet]'"
            ) from error

    from tf_instdisc.serving.client import ServingError

    try:
        embedder, source = _embedder()

        from tf_instdisc.serving.embed_folder import embed_folder, one_by_one

        outcome = embed_folder(
            embedding.IMAGES.value or "",
            output,
            one_by_one(embedder),
            source,
            embedding.BATCH_SIZE.value,
        )
    except ServingError as error:
        raise UsageError(str(error)) from error
    print(f"{outcome.num_embedded} images in {shown(output)}")
    if outcome.failed:
        named = "".join(
            f"\n  {shown(name)}" for name in outcome.failed[:_NAMED_AT_MOST]
        )
        print(
            f"{len(outcome.failed)} images could not be read, listed in "
            f"{shown(output)}.failed.txt:{named}",
            file=sys.stderr,
        )


def _embedder():
    """The model as a function, and what tells it from others."""
    if embedding.SERVER.value or embedding.REST.value:
        return _from_server()
    if embedding.SAVED_MODEL.value:
        return _from_saved_model(pathlib.Path(embedding.SAVED_MODEL.value))
    return _from_run(finished_run.RUN_DIR.value or "")


def _from_server():
    from tf_instdisc.serving.client import GrpcClient, RestClient

    client_of, address = GrpcClient, embedding.SERVER.value
    if embedding.REST.value:
        client_of, address = RestClient, embedding.REST.value
    settings = {
        "deadline": embedding.DEADLINE.value,
        "batch_size": embedding.BATCH_SIZE.value,
        "root_certificates": embedding.ROOT_CERTIFICATES.value,
    }
    name, label = embedding.MODEL_NAME.value, embedding.LABEL.value
    if label is None:
        # One version for all images, though another be published meanwhile.
        with client_of(address, name, **settings) as client:
            states = client.status()
        settings["version"] = max(
            (v for v, state in states.items() if state == "AVAILABLE"),
            default=None,
        )
    client = client_of(address, name, label=label, **settings)
    version = label or settings["version"]
    return client.embed_bytes, f"{address} {name} {version}"


def _from_saved_model(path):
    from tf_instdisc.serving import versions

    if not (path / "saved_model.pb").exists():
        numbers = versions.versions(os.fspath(path))
        if not numbers:
            raise MissingFileError(
                "`saved_model` must hold saved_model.pb or numbered versions. "
                f"Received: saved_model={os.fspath(path)!r}"
            )
        path = path / str(numbers[-1])

    import tensorflow as tf

    model = tf.saved_model.load(os.fspath(path))
    if "image_bytes" not in model.signatures:
        raise UsageError(
            "`saved_model` must have the signature image_bytes. Received: "
            f"{', '.join(model.signatures)}"
        )

    def embed(contents):
        signature = model.signatures["image_bytes"]
        return signature(image_bytes=tf.constant(contents))

    return embed, f"SavedModel {_digest(path / 'fingerprint.pb')}"


def _from_run(run_dir):
    from tf_instdisc.runs import opening

    run = opening.load(run_dir)

    import tensorflow as tf

    from tf_instdisc.runs.load import load_encoder
    from tf_instdisc.serving import saved_model
    from tf_instdisc.serving.signatures import build_serving

    serving = build_serving(
        load_encoder(run_dir), None, saved_model.options_of(run)
    )

    def embed(contents):
        return serving.functions["image_bytes"](tf.constant(contents))

    return embed, f"encoder {run.encoder_digest()}"


def _digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
