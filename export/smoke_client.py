#!/usr/bin/env python3
"""Queries a served model for the neighbors of an image.

Needs only the Python standard library:

python3 smoke_client.py http://localhost:8501/v1/models/digits IMAGE [SIGNATURE]

SIGNATURE is a signature that takes bytes: neighbors_bytes (the default),
image_bytes or classify_bytes. A label or a version may follow the name of the
model: .../digits/labels/stable, .../digits/versions/2. The exit status is 1 if
there is no valid answer.
"""

import base64
import json
import pathlib
import sys
import urllib.error
import urllib.request


def ask(url: str, image: bytes, signature: str) -> dict:
    """Returns the outputs for one image by name."""
    instance = {"b64": base64.b64encode(image).decode()}
    body = {"signature_name": signature, "instances": [instance]}
    request = urllib.request.Request(
        f"{url.rstrip('/')}:predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        (prediction,) = json.load(response)["predictions"]
    return prediction


def main() -> int:
    """Prints the health and the answer, and returns the exit status."""
    if len(sys.argv) not in (3, 4):
        print(__doc__)
        return 2
    url, path = sys.argv[1:3]
    signature = (sys.argv[3:] or ["neighbors_bytes"])[0]
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            for version in json.load(response)["model_version_status"]:
                print(f"version {version['version']}: {version['state']}")
        answer = ask(url, pathlib.Path(path).read_bytes(), signature)
    except urllib.error.HTTPError as error:
        print(f"{url} answers {error.code}: {error.read().decode()}")
        return 1
    except OSError as error:
        print(f"{url}: {error}")
        return 1
    if not answer["valid"]:
        print(f"{path} is not an image that the model accepts")
        return 1
    for name, values in answer.items():
        print(f"{name}: {json.dumps(values)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
