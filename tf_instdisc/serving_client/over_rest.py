"""TF Serving over REST, with Python's own HTTP."""

import base64
import http.client
import json
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

import numpy as np

from tf_instdisc.serving_client.client import (
    FIRST_BACKOFF,
    MAX_BACKOFF,
    Answer,
    Client,
)

_CODES = {
    400: "INVALID_ARGUMENT",
    404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

# A signature with one output answers without its name.
_ONLY_OUTPUT = "embedding"


class RestClient(Client):
    """Asks a server over REST; threads may share it.

    A server that is away is asked again until the deadline.

    Bytes travel as base64, images as JSON numbers: gRPC is several times
    faster for the latter.

    Args:
        url: `http://host:port`; TF Serving listens on 8501. It speaks no
            TLS there: `https://` needs a proxy before it.
        model_name: Name of the model on the server.
        version: A version's number, or None for the newest.
        label: A label of a version, such as `"stable"`, or None.
        deadline: Seconds that one batch may take, with all its retries.
        batch_size: Images in one request.
        root_certificates: PEM file of the authority that signed the
            certificate of an `https://` server; the system's by default.

    Raises:
        ValueError: As in `Client`, or if the URL is not HTTP.
    """

    def __init__(
        self,
        url: str,
        model_name: str,
        *,
        version: int | None = None,
        label: str | None = None,
        deadline: float = 30.0,
        batch_size: int = 32,
        root_certificates: str | None = None,
    ):
        super().__init__(url, model_name, version, label, deadline, batch_size)
        if not url.startswith(("http://", "https://")):
            raise ValueError(
                f"`url` must start with http:// or https://. Received: {url!r}"
            )
        self._url = f"{url.rstrip('/')}/v1/models/{_quote(model_name)}"
        if version is not None:
            self._url += f"/versions/{version}"
        if label is not None:
            self._url += f"/labels/{_quote(label)}"
        self._context = None
        if url.startswith("https://"):
            self._context = ssl.create_default_context(cafile=root_certificates)

    def _predict_batch(
        self, signature_name: str, inputs: np.ndarray | Sequence[bytes]
    ) -> Answer:
        if isinstance(inputs[0], bytes):
            instances = [
                {"b64": base64.b64encode(content).decode()}
                for content in inputs
            ]
        else:
            instances = np.asarray(inputs).tolist()
        body = {"signature_name": signature_name, "instances": instances}
        predictions = self._call(":predict", body, "predictions")
        if not isinstance(predictions[0], dict):
            return {_ONLY_OUTPUT: _to_array(predictions)}
        return {
            name: _to_array([prediction[name] for prediction in predictions])
            for name in predictions[0]
        }

    def status(self) -> dict[int, str]:
        return {
            int(status["version"]): status["state"]
            for status in self._call("", None, "model_version_status")
        }

    def _call(self, method: str, body: dict | None, key: str) -> list:
        """Posts, or gets where there is no body; gives a part of the answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._url + method,
            data,
            {"Content-Type": "application/json"},
        )
        end = time.monotonic() + self.deadline
        backoff = FIRST_BACKOFF
        while True:
            try:
                content = self._ask_once(request, end - time.monotonic())
            except urllib.error.HTTPError as error:
                code = _CODES.get(error.code, "INTERNAL")
                details = error.read().decode(errors="replace")
            except TimeoutError as error:
                code, details = "DEADLINE_EXCEEDED", str(error)
            except (OSError, http.client.HTTPException) as error:
                is_late = isinstance(
                    getattr(error, "reason", None), TimeoutError
                )
                code = "DEADLINE_EXCEEDED" if is_late else "UNAVAILABLE"
                details = repr(error)
            else:
                return self._part_of(content, key)
            pause = backoff * random.uniform(0.8, 1.2)
            is_late = time.monotonic() + pause > end
            if code != "UNAVAILABLE" or is_late:
                raise self._error(code, details)
            time.sleep(pause)
            backoff = min(2 * backoff, MAX_BACKOFF)

    def _part_of(self, content: bytes, key: str) -> list:
        try:
            return json.loads(content)[key]
        except (ValueError, LookupError, TypeError) as error:
            # Of some other server, or of a proxy.
            details = f"no {key}, but {content[:200]!r}"
            raise self._error("INTERNAL", details) from error

    def _ask_once(self, request, timeout: float) -> bytes:
        with urllib.request.urlopen(
            request, timeout=max(timeout, 1e-3), context=self._context
        ) as response:
            return response.read()


def _quote(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _to_array(values: list) -> np.ndarray:
    array = np.array(values)
    return array.astype(np.float32) if array.dtype.kind == "f" else array
