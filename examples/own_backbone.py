"""Trains a backbone of one's own with `model.fit`, and saves it as a run.

python examples/own_backbone.py FOLDER RUN_DIR [EPOCHS]
"""

import sys

import keras

import tf_instdisc


def blocks():
    for filters in (16, 32, 64):
        yield keras.layers.Conv2D(filters, 3, strides=2, use_bias=False)
        yield keras.layers.BatchNormalization()
        yield keras.layers.ReLU()


def main(folder: str, run_dir: str, epochs: str = "40") -> None:
    source = tf_instdisc.folder_source(folder)
    images = tf_instdisc.training_dataset(
        source,
        tf_instdisc.Augmentation(image_size=64),
        batch_size=16,
        epochs=int(epochs),
    )
    backbone = keras.Sequential([keras.Input((64, 64, 3)), *blocks()])
    model = tf_instdisc.InstanceDiscrimination(
        tf_instdisc.build_encoder(backbone, image_size=64),
        source.num_instances,
        objective="softmax",
        temperature=0.1,
    )
    model.compile(keras.optimizers.AdamW(1e-3))
    steps = tf_instdisc.steps_per_epoch(source, 16)
    stop = keras.callbacks.TerminateOnNaN()
    model.fit(
        images, steps_per_epoch=steps, epochs=int(epochs), callbacks=[stop]
    )
    run = tf_instdisc.save_run(model, source, run_dir)
    print(f"{run.path} can be searched, evaluated and exported.")


if __name__ == "__main__":
    main(*sys.argv[1:])
