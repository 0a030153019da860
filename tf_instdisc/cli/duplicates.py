"""instdisc-duplicates: finds near-duplicate images."""

import sys

from tf_instdisc.cli.flag_groups import duplicates, finished_run, moved_images
from tf_instdisc.cli.launch import launch
from tf_instdisc.text import shown

GROUPS = (finished_run, duplicates, moved_images)
_ENOUGH_COPIES = 0.9

_SUMMARY = """
Finds near-duplicates among training images, in a folder, or between two.

  instdisc-duplicates --run_dir=runs/photos
  instdisc-duplicates --run_dir=runs/photos --folders=TRAIN,TEST

A pair is nearer in the embedding than the neighbors of both let expect, and
small grey pictures of the two agree, mirrored or cut a little.
"""


def main() -> None:
    """Entry point of `instdisc-duplicates`."""
    launch(_duplicates, _SUMMARY, GROUPS)


def _duplicates() -> None:
    from tf_instdisc.retrieval.duplicates import (
        find_duplicates,
        folder_images,
        fraction_of_copies_found,
        training_images,
    )
    from tf_instdisc.retrieval.pages import duplicate_page, pages
    from tf_instdisc.runs import images as run_images
    from tf_instdisc.runs import opening
    from tf_instdisc.runs.load import load_encoder

    run = opening.load(finished_run.RUN_DIR.value or "")
    folders = duplicates.FOLDERS.value
    if folders:
        config, encoder = run.read_config(), load_encoder(run.path)
        places = [folder_images(path, config, encoder) for path in folders]
    else:
        images = run_images.open_images(run, moved_images.overrides())
        places = [training_images(images, run)]

    threshold = duplicates.THRESHOLD.value
    found = find_duplicates(
        places[0],
        threshold,
        places[1] if len(places) == 2 else None,
        duplicates.MAX_PAIRS.value,
        duplicates.PIXELS.value,
    )
    print(duplicate_page.summary(found), file=sys.stderr)
    if threshold is None and duplicates.PIXELS.value:
        encoder = load_encoder(run.path)
        fraction = fraction_of_copies_found(places[0], encoder)
        if fraction is not None and fraction < _ENOUGH_COPIES:
            print(
                "warning: This encoder cannot tell well yet. Of copies made "
                "to try it, cut by 2.5% at each side or mirrored, "
                f"{fraction:.0%} are near enough to their originals to be "
                "found. Train for more epochs.",
                file=sys.stderr,
            )
    for path in duplicates.OUTPUT.value:
        if path == "-":
            print(duplicate_page.duplicates_tsv(found), end="")
            continue
        if path.endswith(".tsv"):
            text = duplicate_page.duplicates_tsv(found)
        else:
            title = " and ".join(place.title for place in places)
            text = duplicate_page.duplicates_page(
                found, title, duplicates.PICTURE_SIZE.value
            )
        pages.write(path, text)
        print(shown(str(path)))


if __name__ == "__main__":
    main()
