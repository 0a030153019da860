"""What both clients share: the signatures, batches, and errors."""

import abc
from collections.abc import Sequence

import numpy as np

Answer = dict[str, np.ndarray]

MAX_ATTEMPTS = 5
FIRST_BACKOFF = 0.2  # seconds
MAX_BACKOFF = 2.0  # seconds


class ServingError(RuntimeError):
    """A server did not answer, or refused.

    Attributes:
        code: Name of the gRPC status, or of its like over REST, such as
            `"UNAVAILABLE"`, `"DEADLINE_EXCEEDED"`, `"NOT_FOUND"`,
            `"INVALID_ARGUMENT"`, `"RESOURCE_EXHAUSTED"`.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code


class Client(abc.ABC):
    """Asks a served model, in batches.

    Args:
        address: Of the server, for people.
        model_name: Name of the model on the server.
        version: A version's number, or None for the newest.
        label: A label of a version, such as `"stable"`, or None.
        deadline: Seconds that one batch may take, with all its retries.
        batch_size: Images in one request.

    Raises:
        ValueError: If an argument is out of range, or both `version` and
            `label` are given.
    """

    def __init__(
        self,
        address: str,
        model_name: str,
        version: int | None,
        label: str | None,
        deadline: float,
        batch_size: int,
    ):
        if not deadline > 0 or batch_size < 1:
            raise ValueError(
                "`deadline` must be above 0 and `batch_size` at least 1. "
                f"Received: deadline={deadline}, batch_size={batch_size}"
            )
        if version is not None and label is not None:
            raise ValueError(
                "Give `version` or `label`. "
                f"Received: version={version}, label={label!r}"
            )
        self.address = address
        self.model_name = model_name
        self.version = version
        self.label = label
        self.deadline = deadline
        self.batch_size = batch_size

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeds images of the encoder's size.

        Args:
            images: `[number, size, size, 3]` in 0..255, of the type that the
                model was exported for (uint8 by default).

        Returns:
            float32 `[number, embedding_dim]`.

        Raises:
            ServingError: If the server does not answer, or refuses.
        """
        return self.predict("serving_default", images)["embedding"]

    def embed_bytes(self, contents: Sequence[bytes]) -> Answer:
        """Embeds encoded images of any size.

        Args:
            contents: Files as bytes.

        Returns:
            `embedding`, float32 `[number, embedding_dim]`, and `valid`, bool
            `[number]`: zeros and false for what is no image.

        Raises:
            ServingError: As in `embed`.
        """
        return self.predict("image_bytes", contents)

    def neighbors(self, images: np.ndarray) -> Answer:
        """The nearest rows of the bank, of images as in `embed`.

        Returns:
            `instance_ids` (int64), `names` (str), `scores` (float32) and
            `labels` (int64), each `[number, num_neighbors]`.

        Raises:
            ServingError: As in `embed`.
        """
        return self.predict("neighbors", images)

    def neighbors_bytes(self, contents: Sequence[bytes]) -> Answer:
        """As `neighbors`, of encoded images; also gives `valid`."""
        return self.predict("neighbors_bytes", contents)

    def classify_bytes(self, contents: Sequence[bytes]) -> Answer:
        """The weighted vote of the nearest rows, of encoded images.

        Returns:
            `classes` (str) and `scores` (float32), each
            `[number, num_classes]`, and `valid`.

        Raises:
            ServingError: As in `embed`.
        """
        return self.predict("classify_bytes", contents)

    def predict(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Answer:
        """Asks any signature, batch after batch.

        Args:
            signature_name: Name of the signature.
            inputs: Images, or files as bytes; at least one.

        Returns:
            The outputs by name, with one row for each input.

        Raises:
            ServingError: As in `embed`.
            ValueError: If there are no inputs.
        """
        if not len(inputs):
            raise ValueError("`inputs` must not be empty. Received: 0 inputs")
        answers = [
            self._predict_batch(signature_name, inputs[i : i + self.batch_size])
            for i in range(0, len(inputs), self.batch_size)
        ]
        return {
            name: np.concatenate([answer[name] for answer in answers])
            for name in answers[0]
        }

    @abc.abstractmethod
    def _predict_batch(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Answer:
        """Asks once, with retries, within the deadline."""

    @abc.abstractmethod
    def status(self) -> dict[int, str]:
        """States of the model's versions by number, such as `"AVAILABLE"`.

        Raises:
            ServingError: If the server does not answer or does not know the
                model.
        """

    def close(self) -> None:  # noqa: B027  Nothing to give back over REST.
        """Gives the connection back."""

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _error(self, code: str, details: str) -> ServingError:
        at = f"{self.address}, model {self.model_name}"
        cure = {
            "UNAVAILABLE": "no server answers, or it breaks off each time",
            "DEADLINE_EXCEEDED": f"no answer within {self.deadline} seconds. "
            "Is this the server's address? If so, raise `deadline` or lower "
            "`batch_size`",
            "NOT_FOUND": "the server knows no such model, version, label or "
            "signature, or has not loaded it yet",
            "RESOURCE_EXHAUSTED": "a message is too long. Raise "
            "`max_message_bytes` or lower `batch_size`",
            "INVALID_ARGUMENT": "the server refuses the request",
        }.get(code, "the server failed")
        return ServingError(code, f"{cure} ({at}). It said: {details}")


def input_name(inputs: np.ndarray | Sequence[bytes]) -> str:
    """Name of the one tensor that a signature takes."""
    is_bytes = isinstance(inputs[0], bytes)
    return "image_bytes" if is_bytes else "images"
