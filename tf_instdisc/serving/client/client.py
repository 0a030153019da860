"""The base class of both clients: signatures, batches and errors."""

import abc
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.serving.client.answers import (
    Answer,
    WrongAnswerError,
    check_answer,
    join_answers,
)
from tf_instdisc.serving.client.inputs import checked_inputs
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

MAX_ATTEMPTS = 5
FIRST_BACKOFF = 0.2  # seconds
MAX_BACKOFF = 2.0  # seconds


class ServingError(RuntimeError):
    """A server did not answer, rejected a request or gave a wrong answer.

    Attributes:
        code: Name of the gRPC status, or of its equivalent over REST:
            `"UNAVAILABLE"`, `"DEADLINE_EXCEEDED"`, `"NOT_FOUND"`,
            `"INVALID_ARGUMENT"` or `"RESOURCE_EXHAUSTED"`, for example, and
            `"INTERNAL"` for an answer that no exported model gives.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code = code


class Client(abc.ABC):
    """Sends requests to a served model in batches.

    Args:
        address: Address of the server for error messages.
        model_name: Name of the model on the server.
        version: Number of a version, or None for the newest.
        label: Label of a version, such as `"stable"`, or None.
        deadline: Maximum seconds for one batch, including retries.
        batch_size: Number of images in one request.
        max_message_bytes: Maximum size of an answer.

    Raises:
        ValueError: If an argument is out of range, or if both `version` and
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
        max_message_bytes: int,
    ):
        for name, value in (
            ("batch_size", batch_size),
            ("max_message_bytes", max_message_bytes),
        ):
            if not _is_whole(value) or value < 1:
                raise UsageError(
                    f"`{name}` must be a whole number of at least 1. "
                    f"Received: {name}={value!r}"
                )
        if not isinstance(deadline, int | float) or not 0 < deadline < math.inf:
            raise UsageError(
                "`deadline` must be a finite number of seconds above 0. "
                f"Received: deadline={deadline!r}"
            )
        if not isinstance(model_name, str) or not model_name:
            raise UsageError(
                "`model_name` must be the name of the model on the server. "
                f"Received: model_name={model_name!r}"
            )
        if version is not None and not (
            _is_whole(version) and 0 <= version < 2**63
        ):
            raise UsageError(
                "`version` must be a number of at least 0, or None. "
                f"Received: version={version!r}"
            )
        if label is not None and (not isinstance(label, str) or not label):
            raise UsageError(
                f"`label` must be a name, or None. Received: label={label!r}"
            )
        if version is not None and label is not None:
            raise UsageError(
                "Give `version` or `label`. "
                f"Received: version={version}, label={label!r}"
            )
        self.address = address
        self.model_name = model_name
        self.version = version
        self.label = label
        self.deadline = deadline
        self.batch_size = batch_size
        self.max_message_bytes = max_message_bytes

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeds images of the encoder's size.

        Args:
            images: `[number, size, size, 3]` in [0, 255], of the type that
                the model was exported for (uint8 by default).

        Returns:
            float32 `[number, embedding_dim]`.

        Raises:
            ServingError: If the server does not answer, rejects the request or
                gives a wrong answer.
            ValueError: If there are no images.
        """
        return self.predict("serving_default", images)["embedding"]

    def embed_bytes(self, contents: Sequence[bytes]) -> Answer:
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

    def neighbors(self, images: np.ndarray) -> Answer:
        """Returns the nearest rows of the bank for images as in `embed`.

        Returns:
            `instance_ids` (int64), `names` (str), `scores` (float32) and
            `labels` (int64), each `[number, num_neighbors]`.

        Raises:
            ServingError: As in `embed`.
        """
        return self.predict("neighbors", images)

    def neighbors_bytes(self, contents: Sequence[bytes]) -> Answer:
        """Like `neighbors`, for encoded images; also returns `valid`."""
        return self.predict("neighbors_bytes", contents)

    def classify_bytes(self, contents: Sequence[bytes]) -> Answer:
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
    ) -> Answer:
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
        inputs = checked_inputs(inputs)
        answers = []
        try:
            for start in range(0, len(inputs), self.batch_size):
                batch = inputs[start : start + self.batch_size]
                columns = self._predict_batch(signature_name, batch)
                answers.append(
                    check_answer(signature_name, columns, len(batch))
                )
            return join_answers(answers)
        except WrongAnswerError as error:
            raise self._wrong(error) from error

    @abc.abstractmethod
    def _predict_batch(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Answer:
        """Sends one batch, with retries until the deadline.

        Returns:
            The outputs, which are checked by the caller.

        Raises:
            ServingError: As in `embed`.
            WrongAnswerError: If the answer cannot be parsed.
        """

    def status(self) -> dict[int, str]:
        """Returns the states of the versions, such as `"AVAILABLE"`.

        Raises:
            ServingError: If the server does not answer, does not know the
                model, or gives a wrong answer.
        """
        try:
            states = self._states()
            if not states:
                raise WrongAnswerError("no version is named")
            return states
        except WrongAnswerError as error:
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
        at = f"{self.address}, model {shown(self.model_name)}"
        cure = {
            "UNAVAILABLE": "no server answers, or it breaks off each time",
            "DEADLINE_EXCEEDED": f"no answer within {self.deadline} seconds. "
            "Is this the server's address? If so, raise `deadline` or lower "
            "`batch_size`",
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
            code, f"{cure} ({at}). Message of the server: {said}"
        )

    def _wrong(self, error: WrongAnswerError) -> ServingError:
        return ServingError(
            "INTERNAL",
            f"the server at {self.address} gives a wrong answer for the model "
            f"{shown(self.model_name)}: {error}. Is this a model that "
            "instdisc-export made?",
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
