"""Exports a run for TF Serving, and asks the server for neighbors.

    python examples/ask_a_server.py export RUN_DIR models/photos
    tensorflow_model_server --rest_api_port=8501 --model_name=photos \\
      --model_base_path=$PWD/models/photos
    python examples/ask_a_server.py ask http://localhost:8501 photos PHOTO
"""

import pathlib
import sys

import tf_instdisc
from tf_instdisc.serving_client import RestClient


def export(run_dir: str, export_dir: str) -> None:
    version = tf_instdisc.Run(run_dir).export(export_dir)
    print(f"exported to {version}")


def ask(url: str, model: str, photo: str) -> None:
    with RestClient(url, model) as client:
        found = client.neighbors_bytes([pathlib.Path(photo).read_bytes()])
    for name, score in zip(found["names"][0], found["scores"][0], strict=True):
        print(f"{score:.3f}  {name}")


if __name__ == "__main__":
    {"export": export, "ask": ask}[sys.argv[1]](*sys.argv[2:])
