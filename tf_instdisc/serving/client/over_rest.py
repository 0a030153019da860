"""A client of TF Serving over REST, using Python's HTTP library."""

import base64
import json
import random
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.serving.client.client import (
    FIRST_BACKOFF,
    MAX_BACKOFF,
    Client,
    ClientOptions,
)
from tf_instdisc.serving.client.exchange import ExchangeError, exchange
from tf_instdisc.serving.client.responses import (
    InvalidResponseError,
    Response,
    expected_dtype,
    from_lists,
)
from tf_instdisc.serving.client.tls import tls_context
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

_CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

# A signature with a single output responds without the name of the output.
_ONLY_OUTPUT = "embedding"


class RestClient(Client):
    """A thread-safe client over REST.

    Requests to an unavailable server are retried until the deadline.

    Bytes are sent as base64 and images as JSON numbers. For images, gRPC is
    several times faster.

    Args:
        url: `http://host:port`; TF Serving listens on port 8501. It does not
            support TLS there, so `https://` needs a proxy.
        model_name: Name of the model on the server.
        root_certificates: PEM file of the authority that signed the
            certificate of an `https://` server; the system's by default.
        **options: Other fields of `ClientOptions`, such as `deadline=10`.
            Parsing the JSON of a response takes about ten times as much memory
            as its `max_message_bytes`.

    Raises:
        FileNotFoundError: If `root_certificates` is missing.
        ValueError: If an option is out of its range, the URL is neither HTTP
            nor HTTPS, or `root_certificates` cannot be read or is given for
            HTTP.
    """

    def __init__(
        self,
        url: str,
        model_name: str,
        *,
        root_certificates: str | None = None,
        **options: Any,
    ):
        super().__init__(url, ClientOptions(model_name, **options), 64 * 2**20)
        _require_url(url)
        if root_certificates is not None and not url.startswith("https://"):
            raise UsageError(
                "`root_certificates` needs an https:// URL, since nothing is "
                f"encrypted over http://. Received: url={url!r}. Give an "
                "https:// URL, or leave `root_certificates` out."
            )
        self._url = f"{url.rstrip('/')}/v1/models/{_quote(model_name)}"
        if self.options.version is not None:
            self._url += f"/versions/{self.options.version}"
        if self.options.label is not None:
            self._url += f"/labels/{_quote(self.options.label)}"
        self._context = None
        if url.startswith("https://"):
            self._context = tls_context(root_certificates)

    def _predict_batch(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Response:
        if isinstance(inputs[0], bytes):
            instances = [
                {"b64": base64.b64encode(content).decode()}
                for content in inputs
            ]
        else:
            instances = np.asarray(inputs).tolist()
        body = {"signature_name": signature_name, "instances": instances}
        predictions = self._ask(":predict", body, "predictions")
        if not isinstance(predictions, list) or len(predictions) != len(inputs):
            raise InvalidResponseError(
                f"`predictions` must be a list of {len(inputs)} rows"
            )
        if not isinstance(predictions[0], dict):
            columns = {_ONLY_OUTPUT: predictions}
        else:
            names = predictions[0].keys()
            for row in predictions:
                if not isinstance(row, dict) or row.keys() != names:
                    raise InvalidResponseError("rows of different outputs")
            columns = {
                name: [row[name] for row in predictions] for name in names
            }
        return {
            name: from_lists(
                values,
                expected_dtype(signature_name, name),
                self.max_message_bytes,
            )
            for name, values in columns.items()
        }

    def _states(self) -> dict[int, str]:
        states = {}
        try:
            for status in self._ask("", None, "model_version_status"):
                state, number = status["state"], int(status["version"])
                if not isinstance(state, str) or not 0 <= number < 2**63:
                    raise InvalidResponseError(
                        "a version without number or state"
                    )
                states[number] = shown(state, UNTRUSTED_LIMIT)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise InvalidResponseError(
                "`model_version_status` must be a list of versions"
            ) from error
        return states

    def _ask(self, method: str, body: dict | None, key: str) -> Any:
        """Sends POST, or GET without a body; returns a part of the response."""
        verb = "GET" if body is None else "POST"
        data = None if body is None else json.dumps(body).encode()
        end = time.monotonic() + self.options.deadline
        backoff = FIRST_BACKOFF
        earlier = ""
        while True:
            try:
                reply = exchange(
                    verb,
                    self._url + method,
                    data,
                    end,
                    self.max_message_bytes,
                    self._context,
                )
            except ExchangeError as error:
                code, details = error.code, str(error)
            else:
                if reply.status == 200:
                    return _part_of(reply.body, key)
                code = _CODES.get(reply.status, "INTERNAL")
                details = f"{reply.status} {_text(reply.body)}"
            pause = backoff * random.uniform(0.8, 1.2)
            is_late = time.monotonic() + pause > end
            if code != "UNAVAILABLE" or is_late:
                raise self._error(code, details + earlier)
            # The last attempt may time out before the server reports a cause.
            earlier = f"; before that: {details}"
            time.sleep(pause)
            backoff = min(2 * backoff, MAX_BACKOFF)


def _part_of(content: bytes, key: str) -> Any:
    try:
        return json.loads(content)[key]
    # Another server or a proxy answered, or the JSON is too deep or large.
    except (
        ValueError,
        LookupError,
        TypeError,
        RecursionError,
        MemoryError,
    ) as error:
        said = shown(_text(content), UNTRUSTED_LIMIT)
        raise InvalidResponseError(f"no {key}, but {said}") from error


def _text(content: bytes) -> str:
    return content[: UNTRUSTED_LIMIT + 1].decode(errors="replace")


def _require_url(url: str) -> None:
    message = f"`url` must be http://host:port or https://. Received: {url!r}"
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise UsageError(message)
    try:
        parts = urllib.parse.urlsplit(url)
        is_complete = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise UsageError(message) from error
    if not is_complete or not url.isascii() or not url.isprintable():
        raise UsageError(message)
    if " " in url or parts.query or parts.fragment or parts.username:
        raise UsageError(message)


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")
