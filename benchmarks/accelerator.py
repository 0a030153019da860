"""Training of a recipe on an accelerator, with Keras' JAX backend.

The encoder, the augmentation, the optimizer and the formulas are those of the
package, which run on any backend; only the loop is different. All images stay
on the device, and a whole epoch is one compiled function. The random numbers
are those of JAX, so a run differs from `instdisc train` as two seeds do.

Three steps, of which only the second needs JAX, and it does not need
TensorFlow. The images of CIFAR-10 take 20 MB:

    python -m benchmarks.accelerator pack --recipe=cifar10_night \\
      --data_dir=... --images=images.npz
    python -m benchmarks.accelerator train --recipe=cifar10_night \\
      --images=images.npz --weights=weights.npz
    python -m benchmarks.accelerator save --recipe=cifar10_night \\
      --data_dir=... --weights=weights.npz --run_dir=runs/night

The last step encodes all images and writes a run, for `instdisc evaluate` and
all other commands. Flags of `instdisc train`, such as --seed=1, may follow.

With JAX 0.11.2 on an H100, set XLA_FLAGS=--xla_gpu_enable_triton_gemm=false:
otherwise the choice of kernels fails (CUDA_ERROR_ILLEGAL_INSTRUCTION).
"""

import argparse
import dataclasses
import io
import json
import os
import time
from concurrent import futures
from typing import Any

import numpy as np

from tf_instdisc.config import RunConfig, recipes
from tf_instdisc.config.run import at_train_size, from_flagfile

_ENCODED = 2000  # Images that are encoded at a time.


def main() -> None:
    """Runs one of the three steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=("pack", "train", "save"))
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--data_dir")
    parser.add_argument("--images")
    parser.add_argument("--weights")
    parser.add_argument("--run_dir")
    chosen, flags = parser.parse_known_args()
    path = recipes.path_of(chosen.recipe)
    config = from_flagfile(path.read_text("utf-8"), "\n".join(flags))
    if chosen.step == "pack":
        pack(config, chosen.data_dir, chosen.images)
    elif chosen.step == "train":
        np.savez(chosen.weights, *train(config, read(chosen.images)))
    else:
        save(config, chosen.data_dir, chosen.weights, chosen.run_dir)


# === Images ===


def pack(config: RunConfig, data_dir: str | None, path: str) -> None:
    """Writes the encoded training images, in the order of their ids."""
    import tf_instdisc

    data = config.data
    source = tf_instdisc.tfds_source(
        data.dataset, data.split, data_dir, "none", image_key=data.image_key
    )
    examples = source.examples(None).as_numpy_iterator()
    files = [example["image"] for example in examples]
    np.savez_compressed(
        path,
        content=np.frombuffer(b"".join(files), np.uint8),
        sizes=np.array([len(file) for file in files]),
    )


def read(path: str) -> np.ndarray:
    """Reads and decodes images: uint8 `[n, height, width, 3]`."""
    packed = np.load(path)
    ends = np.cumsum(packed["sizes"])
    files = np.split(packed["content"], ends[:-1])
    with futures.ProcessPoolExecutor() as pool:
        return np.stack(list(pool.map(_decode, files, chunksize=500)))


def _decode(file: np.ndarray) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(file.tobytes())) as image:
        return np.asarray(image.convert("RGB"))


# === Training ===


def train(config: RunConfig, images: np.ndarray) -> list[np.ndarray]:
    """Trains an encoder, and returns its weights.

    Prints the loss, n P(i|v), and the images per second of each epoch.

    Args:
        config: The settings of the run. The settings `bank_dtype` and
            `bank_placement` have no effect.
        images: uint8 `[n, height, width, 3]`.

    Returns:
        The weights in the order of `encoder.get_weights()`.
    """
    import jax
    import keras
    from jax import numpy as jnp

    from tf_instdisc.data.augment import NUM_UNIFORMS, augment, augmentation_of
    from tf_instdisc.method import formulas
    from tf_instdisc.method.encoders import encoder_of
    from tf_instdisc.training.optimizer import optimizer_of

    if keras.backend.backend() != "jax":
        raise SystemExit("Set KERAS_BACKEND=jax.")
    is_possible = (
        config.method.objective != "info_nce"
        and config.method.normalizer == "ema"
        and config.optimizer.accumulate_steps == 1
        and config.encoder.init_encoder is None
        and config.encoder.precision != "auto"
    )
    if not is_possible:
        raise SystemExit(
            "This loop has no info_nce, first_batch, accumulate_steps, "
            "init_encoder or precision=auto. Use `instdisc train`."
        )
    keras.mixed_precision.set_dtype_policy(config.encoder.precision)
    keras.utils.set_random_seed(config.training.seed)
    seed = jax.random.PRNGKey(config.training.seed)
    method, batch = config.method, config.optimizer.batch_size
    encoder = encoder_of(at_train_size(config))
    whole_images = encoder_of(config)
    augmentation = augmentation_of(config)
    n, pixels = len(images), jnp.asarray(images)
    steps = n // batch

    # `class_weights` are w_j of the parametric softmax, equation 1.
    trained: list[Any] = list(encoder.trainable_variables)
    if method.objective == "parametric":
        scale = config.encoder.embedding_dim**-0.5
        normal = keras.initializers.RandomNormal(stddev=scale)
        shape = n, config.encoder.embedding_dim
        trained.append(keras.Variable(normal(shape), name="class_weights"))
    optimizer = optimizer_of(config.optimizer, steps)
    optimizer.build(trained)

    def losses_of(v, own, bank, class_weights, ids, log_z, key):
        positive = formulas.positive_logits(v, own, method.temperature)
        if method.objective in ("softmax", "parametric"):
            is_bank = method.objective == "softmax"
            rows = bank if is_bank else class_weights[0]
            losses = formulas.softmax_loss(v, ids, rows, method.temperature)
            return losses, log_z, jnp.exp(-losses)
        shape = (method.num_negatives,)
        if method.negatives == "per_example":
            shape = (batch, *shape)
        rows = bank[jax.random.randint(key, shape, 0, n)]
        negative = formulas.logits(v, rows, method.temperature)
        estimate = formulas.log_z_estimate(jax.lax.stop_gradient(negative), n)
        momentum = method.normalizer_momentum
        log_z = formulas.moving_average(log_z, estimate, momentum)
        losses = formulas.nce_loss(positive, negative, log_z, n)
        return losses, log_z, jnp.exp(positive - log_z)

    def step(state, ids):
        weights, others, moments, bank, log_z, count = state
        drawn, key = jax.random.split(jax.random.fold_in(seed, count))
        uniforms = jax.random.uniform(drawn, (batch, NUM_UNIFORMS))
        x = augment(pixels[ids], uniforms, augmentation)

        def mean_loss(weights):
            own = weights[: len(encoder.trainable_variables)]
            class_weights = weights[len(own) :]
            v, after = encoder.stateless_call(own, others, x, training=True)
            rows = bank[ids]
            losses, z, p = losses_of(
                v, rows, bank, class_weights, ids, log_z, key
            )
            distances = formulas.proximal_term(v, rows)
            losses += method.proximal_weight * distances
            return jnp.mean(losses), (after, z, jnp.mean(n * p), v)

        gradient = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, (others, log_z, p, v)), slopes = gradient(weights)
        weights, moments = optimizer.stateless_apply(moments, slopes, weights)
        moved = formulas.moved_rows(bank[ids], v, method.bank_momentum)
        bank = bank.at[ids].set(moved)
        state = list(weights), list(others), list(moments), bank, log_z
        return (*state, count + 1), (loss, p)

    @jax.jit
    def epoch(state, number):
        order = jax.random.permutation(jax.random.fold_in(seed, -number), n)
        order = order[: steps * batch].reshape(steps, batch)
        state, (losses, p) = jax.lax.scan(step, state, order)
        return state, losses.mean(), p.mean()

    if method.bank_init == "encode":
        whole_images.set_weights(encoder.get_weights())
        parts = range(0, n, _ENCODED)
        encode = jax.jit(lambda x: whole_images(x, training=False))
        bank = jnp.concatenate(
            [encode(pixels[i : i + _ENCODED]) for i in parts]
        )
    else:
        normal = jax.random.normal(seed, (n, config.encoder.embedding_dim))
        bank = formulas.moved_rows(normal, normal, 0.0)
    state = (
        [variable.value for variable in trained],
        [variable.value for variable in encoder.non_trainable_variables],
        [variable.value for variable in optimizer.variables],
        bank,
        jnp.array(jnp.nan, "float32"),  # log Z
        jnp.array(0, "int32"),
    )
    for number in range(1, config.optimizer.epochs + 1):
        started = time.perf_counter()
        state, loss, p = epoch(state, number)
        line = {"epoch": number, "loss": float(loss), "n_times_p": float(p)}
        line["images_per_second"] = (
            steps * batch / (time.perf_counter() - started)
        )
        print(json.dumps(line), flush=True)
    for variable, value in zip(trained, state[0], strict=True):
        variable.assign(value)
    others = encoder.non_trainable_variables
    for variable, value in zip(others, state[1], strict=True):
        variable.assign(value)
    return encoder.get_weights()


# === The run ===


def save(
    config: RunConfig, data_dir: str | None, weights: str, run_dir: str
) -> None:
    """Writes a run with the weights, and with rows encoded by them."""
    import tf_instdisc
    from tf_instdisc.method.encoders import encoder_of

    data = dataclasses.replace(config.data, data_dir=data_dir)
    config = dataclasses.replace(config, data=data)
    encoder = encoder_of(config)
    with np.load(weights) as arrays:
        encoder.set_weights([arrays[f"arr_{i}"] for i in range(len(arrays))])
    source = tf_instdisc.tfds_source(data.dataset, data.split, data_dir)
    model = tf_instdisc.InstanceDiscrimination(encoder, source.num_instances)
    tf_instdisc.save_run(model, source, os.fspath(run_dir), config)


if __name__ == "__main__":
    main()
