"""Trains on a folder of photographs, and finds the neighbors of one of them.

    python examples/neighbors_of_photographs.py FOLDER PHOTO [EPOCHS]

Repeat the command to resume a run that was stopped.
"""

import sys

import tf_instdisc


def main(folder: str, photo: str, epochs: str = "40") -> None:
    config = tf_instdisc.RunConfig(
        data=tf_instdisc.DataConfig(images=folder, image_size=64),
        encoder=tf_instdisc.EncoderConfig(width=16),
        method=tf_instdisc.MethodConfig(objective="softmax", temperature=0.1),
        optimizer=tf_instdisc.OptimizerConfig(
            epochs=int(epochs), batch_size=32, schedule="cosine"
        ),
    )
    run = tf_instdisc.train(config, "runs/photographs")
    names, scores = run.neighbors(photo, num_neighbors=5)
    for name, score in zip(names[0], scores[0], strict=True):
        print(f"{score:.3f}  {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
