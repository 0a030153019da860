"""instdisc-duplicates: finds near-duplicate images."""

import sys

from tf_instdisc.cli.flag_groups import duplicates, finished_run
from tf_instdisc.cli.launch import launch
from tf_instdisc.text import shown

GROUPS = (finished_run, duplicates)

_SUMMARY = """
Finds near-duplicates among training images, in a folder, or between two.

  instdisc-duplicates --run_dir=runs/photos --threshold=0.98
  instdisc-duplicates --run_dir=runs/photos --folders=TRAIN,TEST
"""


def main() -> None:
    """Entry point of `instdisc-duplicates`."""
    launch(_duplicates, _SUMMARY, GROUPS)


def _duplicates() -> None:
    from tf_instdisc import run_directory, run_images
    from tf_instdisc.duplicates import (
        find_duplicates,
        folder_images,
        training_images,
    )
    from tf_instdisc.load import load_encoder
    from tf_instdisc.report import duplicate_page, pages

    run = run_directory.load(finished_run.RUN_DIR.value or "")
    folders = duplicates.FOLDERS.value
    if folders:
        flags, encoder = run.read_flags(), load_encoder(run.path)
        places = [folder_images(path, flags, encoder) for path in folders]
    else:
        images = run_images.open_images(run)
        places = [training_images(images, run)]

    threshold = duplicates.THRESHOLD.value
    found = find_duplicates(
        places[0],
        threshold,
        places[1] if len(places) == 2 else None,
        duplicates.MAX_PAIRS.value,
    )
    print(duplicate_page.summary(found, threshold), file=sys.stderr)
    for path in duplicates.OUTPUT.value:
        if path == "-":
            print(duplicate_page.duplicates_tsv(found), end="")
            continue
        if path.endswith(".tsv"):
            text = duplicate_page.duplicates_tsv(found)
        else:
            title = " and ".join(place.title for place in places)
            text = duplicate_page.duplicates_page(
                found, threshold, title, duplicates.PICTURE_SIZE.value
            )
        pages.write(path, text)
        print(shown(str(path)))


if __name__ == "__main__":
    main()
