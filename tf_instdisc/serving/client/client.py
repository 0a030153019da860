"""The base class of both clients: signatures, batches and errors."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import ServingError, UsageError
from tf_instdisc.serving.client.responses import (
    InvalidResponseError,
    Response,
    check_response,
    join_responses,
)
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

MAX_ATTEMPTS = 5
FIRST_BACKOFF = 0.2  # seconds
MAX_BACKOFF = 2.0  # seconds


@dataclasses.dataclass(frozen=True)
class ClientOptions(Settings):
    """The options of a client.

    Raises:
        ValueError: If a field is out of its range, or if both `version` and
            `label` are given.
    """

    model_name: str = setting("", "Name of the model on the server.")
    version: int | None = setting(
        None,
        "Number of a version; by default, the newest is used.",
        least=0,
        most=2**63 - 1,
    )
    label: str | None = setting(
        None, 'Label of a version, such as "stable", instead of its number.'
    )
    deadline: float = setting(
        30.0,
        "Maximum seconds for one batch, including retries.",
        least=0,
        excludes_least=True,
    )
    batch_size: int = setting(32, "Number of images in one request.", least=1)
    max_message_bytes: int | None = setting(
        None,
        "Maximum size of a response, and of a request over gRPC; by default "
        "256 MiB over gRPC and 64 MiB over REST.",
        least=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("model_name", "label"):
            if getattr(self, name) == "":
                raise UsageError(
                    f"`{name}` must not be empty. Received: {name}=''"
                )
        if self.version is not None and self.label is not None:
            raise UsageError(
                "Give `version` or `label`. "
                f"Received: version={self.version}, label={self.label!r}"
            )


class Client(abc.ABC):
    """Sends requests to a served model in batches.

    Args:
        address: Address of the server for error messages.
        options: The options.
        max_message_bytes: The default of the option.
    """

    def __init__(
        self, address: str, options: ClientOptions, max_message_bytes: int
    ):
        self.address = address
        self.options = options
        self.max_message_bytes = options.max_message_bytes or max_message_bytes

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeds images of the encoder's size.

        Args:
            images: `[number, size, size, 3]` in [0, 255], of the type that
                the model was exported for (uint8 by default).

        Returns:
            float32 `[number, embedding_dim]`.

        Raises:
            ServingError: If the server does not respond, rejects the request or
                sends an invalid response.
            ValueError: If there are no images.
        """
        return self.predict("serving_default", images)["embedding"]

    def embed_bytes(self, contents: Sequence[bytes]) -> Response:
        """Embeds encoded images of any size.

        Args:
            contents: Files as bytes.

        Returns:
            `embedding`, float32 `[number, embedding_dim]`, and `valid`, bool
            `[number]`. They are zeros and False for bytes that are not an
            image.

        Raises:
            ServingError: As in `embed`.
        """
        return self.predict("image_bytes", contents)

    def neighbors(self, images: np.ndarray) -> Response:
        """Returns the nearest rows of the bank for images as in `embed`.

        Returns:
            `instance_ids` (int64), `names` (str), `scores` (float32) and
            `labels` (int64), each `[number, num_neighbors]`.

        Raises:
            ServingError: As in `embed`.
        """
        return self.predict("neighbors", images)

    def neighbors_bytes(self, contents: Sequence[bytes]) -> Response:
        """Like `neighbors`, for encoded images; also returns `valid`."""
        return self.predict("neighbors_bytes", contents)

    def classify_bytes(self, contents: Sequence[bytes]) -> Response:
        """Returns the weighted kNN vote for encoded images.

        Returns:
            `classes` (str) and `scores` (float32), each
            `[number, num_classes]`, and `valid`.

        Raises:
            ServingError: As in `embed`.
        """
        return self.predict("classify_bytes", contents)

    def predict(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Response:
        """Calls any signature in batches.

        Args:
            signature_name: Name of the signature.
            inputs: Images, or files as bytes; at least one.

        Returns:
            The outputs by name, with one row for each input.

        Raises:
            ServingError: As in `embed`.
            ValueError: If there are no inputs, or if they are neither images
                nor bytes.
        """
        if not isinstance(signature_name, str) or not signature_name:
            raise UsageError(
                "`signature_name` must be the name of a signature. "
                f"Received: signature_name={signature_name!r}"
            )
        inputs = _checked_inputs(inputs)
        responses = []
        try:
            for start in range(0, len(inputs), self.options.batch_size):
                batch = inputs[start : start + self.options.batch_size]
                columns = self._predict_batch(signature_name, batch)
                responses.append(
                    check_response(signature_name, columns, len(batch))
                )
            return join_responses(responses)
        except InvalidResponseError as error:
            raise self._wrong(error) from error

    @abc.abstractmethod
    def _predict_batch(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Response:
        """Sends one batch, with retries until the deadline.

        Returns:
            The outputs, which are checked by the caller.

        Raises:
            ServingError: As in `embed`.
            InvalidResponseError: If the response cannot be parsed.
        """

    def status(self) -> dict[int, str]:
        """Returns the states of the versions, such as `"AVAILABLE"`.

        Raises:
            ServingError: If the server does not respond, does not know the
                model, or sends an invalid response.
        """
        try:
            states = self._states()
            if not states:
                raise InvalidResponseError("no version is named")
            return states
        except InvalidResponseError as error:
            raise self._wrong(error) from error

    @abc.abstractmethod
    def _states(self) -> dict[int, str]:
        """Requests the states; raises errors like `_predict_batch`."""

    def close(self) -> None:  # noqa: B027  REST keeps no connection.
        """Closes the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _error(self, code: str, details: str) -> ServingError:
        at = f"{self.address}, model {shown(self.options.model_name)}"
        cure = {
            "UNAVAILABLE": "no server responds, or the connection is "
            "interrupted each time",
            "DEADLINE_EXCEEDED": "no response within "
            f"{self.options.deadline} seconds. Is this the server's address? "
            "If so, raise `deadline` or lower `batch_size`",
            "NOT_FOUND": "the server knows no such model, version, label or "
            "signature, or has not loaded it yet",
            "RESOURCE_EXHAUSTED": "a message is too long. Raise "
            "`max_message_bytes` or lower `batch_size`",
            "UNAUTHENTICATED": "the server's certificate is not trusted. Give "
            "its authority as `root_certificates`",
            "INVALID_ARGUMENT": "the server refuses the request",
        }.get(code, "the server failed")
        said = shown(details, UNTRUSTED_LIMIT)
        return ServingError(
            f"{code}: {cure} ({at}). Message of the server: {said}"
        )

    def _wrong(self, error: InvalidResponseError) -> ServingError:
        return ServingError(
            f"INTERNAL: the server at {self.address} sends an invalid response "
            f"for the model {shown(self.options.model_name)}: {error}. Was "
            "this model exported by instdisc-export?"
        )


def _checked_inputs(
    inputs: np.ndarray | Sequence[bytes],
) -> np.ndarray | Sequence[bytes]:
    """Raises UsageError unless all inputs are images, or all are bytes."""
    if isinstance(inputs, str | bytes) or not hasattr(inputs, "__len__"):
        raise UsageError(
            "`inputs` must be images, or a list of files as bytes. "
            f"Received: inputs of {type(inputs).__name__}"
        )
    if not len(inputs):
        raise UsageError("`inputs` must not be empty. Received: 0 inputs")
    if any(isinstance(value, bytes) for value in inputs):
        if all(isinstance(value, bytes) for value in inputs):
            return list(inputs)
        raise UsageError(
            "`inputs` must be all bytes, or all images. Received: both"
        )
    images = np.asarray(inputs)
    if images.dtype.kind not in "uif" or not np.isfinite(images).all():
        raise UsageError(
            "`inputs` must be images of finite numbers, or files as bytes. "
            f"Received: inputs of the type {images.dtype}"
        )
    return images
