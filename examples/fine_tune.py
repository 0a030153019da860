"""Trains a classifier on a trained encoder. Only Keras is needed.

    python examples/fine_tune.py ENCODER.keras FOLDER [EPOCHS]

FOLDER has one subfolder for each class. Keras leaves out files that end in
`.webp`.
"""

import sys

import keras


def main(encoder_file: str, folder: str, epochs: str = "20") -> None:
    encoder = keras.saving.load_model(encoder_file)
    size = encoder.input_shape[1]
    images = keras.utils.image_dataset_from_directory(
        folder,
        image_size=(size, size),
        batch_size=16,
        crop_to_aspect_ratio=True,
    )
    features = encoder.get_layer("pool").output
    classes = keras.layers.Dense(len(images.class_names))(features)
    classifier = keras.Model(encoder.input, classes)
    classifier.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    classifier.fit(images, epochs=int(epochs))
    classifier.save("classifier.keras")


if __name__ == "__main__":
    main(*sys.argv[1:])
