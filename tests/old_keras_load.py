"""Run with an old Keras: loads encoder files, and saves some embeddings.

python old_keras_load.py FOLDER [NAME ...], with JAX or TensorFlow
"""

import importlib.util
import os
import pathlib
import sys

import numpy as np

for backend in ("tensorflow", "jax"):
    if importlib.util.find_spec(backend):
        os.environ["KERAS_BACKEND"] = backend
import keras  # noqa: E402


def main():
    folder = pathlib.Path(sys.argv[1])
    images = np.load(folder / "images.npy")
    outputs = {}
    for path in sorted(folder.glob("*.keras")):
        encoder = keras.saving.load_model(path)
        if path.stem not in sys.argv[2:]:
            continue
        side = encoder.input_shape[1]
        outputs[path.stem] = np.asarray(encoder(images[:, :side, :side]))
    np.savez(folder / "old.npz", version=keras.__version__, **outputs)


if __name__ == "__main__":
    main()
