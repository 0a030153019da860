"""Models as functions from image files to embeddings."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc.errors import UsageError

Embedder = Callable[[Sequence[bytes]], dict[str, np.ndarray]]

BATCH_SIZE = 32
"""The default number of images in each call of an embedder."""

# Camera photographs fill the memory before they fill a batch.
_MAX_BYTES = 64 * 2**20


def embed_contents(
    contents: Sequence[bytes], embedder: Embedder
) -> dict[str, np.ndarray]:
    """Embeds image files, and checks the response of the model.

    Returns:
        `embedding`, float `[number, embedding_dim]`, and `valid`, bool
        `[number]`.

    Raises:
        ValueError: If the response has other shapes or types, or a valid row is
            not finite.
    """
    response = embedder(contents)
    embedding = np.asarray(response["embedding"])
    valid = np.asarray(response["valid"])
    if (
        embedding.ndim != 2
        or embedding.dtype.kind != "f"
        or valid.shape != (len(contents),)
        or valid.dtype != bool
        or len(embedding) != len(contents)
        or not np.isfinite(embedding[valid]).all()
    ):
        raise UsageError(
            "The model must give `embedding`, [number, embedding_dim] of "
            "finite numbers, and `valid`, [number] of truth values. Received: "
            f"shapes {embedding.shape} and {valid.shape} of {embedding.dtype} "
            f"and {valid.dtype} for {len(contents)} images. Nothing of this "
            "response is kept."
        )
    return {"embedding": embedding, "valid": valid}


def embed_in_batches(
    contents: Iterator[tuple[bytes, str]],
    embedder: Embedder,
    batch_size: int = BATCH_SIZE,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeds any number of image files, in batches of at most 64 MiB.

    Args:
        contents: Pairs of the bytes of a file and a text; at least one.
        embedder: As in `embed_contents`.
        batch_size: Largest number of images in each call of the embedder.

    Returns:
        Embeddings, float `[number, embedding_dim]`; whether each is valid,
        bool `[number]`; and the texts.
    """
    responses, texts = [], []
    for batch in _batches(contents, batch_size):
        responses.append(embed_contents([file for file, _ in batch], embedder))
        texts += [text for _, text in batch]
    rows, valid = (
        np.concatenate([response[key] for response in responses])
        for key in ("embedding", "valid")
    )
    return rows, valid, texts


def _batches(
    contents: Iterator[tuple[bytes, str]], batch_size: int
) -> Iterator[list[tuple[bytes, str]]]:
    batch: list[tuple[bytes, str]] = []
    num_bytes = 0
    for pair in contents:
        is_full = num_bytes + len(pair[0]) > _MAX_BYTES
        if batch and (is_full or len(batch) == batch_size):
            yield batch
            batch, num_bytes = [], 0
        batch.append(pair)
        num_bytes += len(pair[0])
    yield batch


def one_by_one(embedder: Embedder) -> Embedder:
    """Wraps an embedder that fails on bad images so that it marks them.

    A model that was exported with `bad_bytes="error"` fails the whole batch.
    In this case, the images are sent one at a time.

    Args:
        embedder: As in `embed_contents`; it may raise TensorFlow's
            InvalidArgumentError, or a `ServingError` with that code.

    Returns:
        An embedder for `embed_contents`.
    """

    def embed(contents: Sequence[bytes]) -> dict[str, np.ndarray]:
        try:
            return embedder(contents)
        except Exception as error:
            if not _is_refusal(error):
                raise
        # If even this image fails, the images are not the cause.
        dim = np.shape(embedder([good_image()])["embedding"])[1]
        rows = np.zeros([len(contents), dim], np.float32)
        valid = np.zeros([len(contents)], bool)
        for i, content in enumerate(contents):
            try:
                rows[i] = embedder([content])["embedding"][0]
                valid[i] = True
            except Exception as error:
                if not _is_refusal(error):
                    raise
        return {"embedding": rows, "valid": valid}

    return embed


def _is_refusal(error: Exception) -> bool:
    """Returns whether the request was rejected as invalid."""
    is_from_server = getattr(error, "code", None) == "INVALID_ARGUMENT"
    return is_from_server or isinstance(error, tf.errors.InvalidArgumentError)


def good_image() -> bytes:
    """Returns an image that every model accepts."""
    return tf.io.encode_png(tf.zeros([8, 8, 3], tf.uint8)).numpy()
