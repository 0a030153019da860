"""Finds near-duplicates in a run's images, in a folder or between two folders.

Examples:
  instdisc-duplicates --run_dir=runs/photos
  instdisc-duplicates --run_dir=runs/photos --folders=TRAIN,TEST

The embeddings of a pair are closer than those of other neighbors suggest, and
small gray pictures of the two agree, even if mirrored or slightly cropped.
"""

import dataclasses
import sys

from tf_instdisc.cli.options import (
    FinishedRun,
    MovedImages,
    make_folders,
    require_endings,
    require_file,
)
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.text import shown

_ENOUGH_COPIES = 0.9


@dataclasses.dataclass(frozen=True)
class DuplicatesOptions(Settings):
    """Near-duplicates"""

    threshold: float | None = setting(
        None,
        "Minimum cosine of near-duplicates. By default, each pair is judged by "
        "the distances to other neighbors and by its pixels.",
        least=0.01,
        most=1,
    )
    folders: tuple[str, ...] = setting(
        (),
        "A folder to search instead of the training images, or two folders "
        "A,B to compare with each other. A folder whose name has a comma is "
        "written in double quotes within the value.",
        is_path=True,
    )
    max_pairs: int = setting(
        1_000_000, "Number of pairs at which the search stops.", least=1
    )
    output: tuple[str, ...] = setting(
        ("duplicates.tsv", "duplicates.html"),
        "Files to write: .tsv, .html or both; - prints TSV.",
        is_filled=True,
        is_path=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.folders) > 2:
            raise UsageError(
                "`folders` must be one folder, or two with a comma between "
                f"them. Received: `folders`={','.join(self.folders)}. Write a "
                "name that has a comma in double quotes: '\"A,B\"'."
            )
        files = [path for path in self.output if path != "-"]
        require_endings("output", files, (".tsv", ".html"))
        for path in files:
            require_file("output", path)


SETTINGS = [FinishedRun, DuplicatesOptions, MovedImages]


def main(
    finished: FinishedRun, options: DuplicatesOptions, moved: MovedImages
) -> None:
    """Writes the pairs, and prints a summary."""
    if any(path.endswith(".html") for path in options.output):
        # Before the search, as it needs the extra `report`.
        from tf_instdisc.retrieval.pages import duplicate_page, pages

    from tf_instdisc import atomic
    from tf_instdisc.retrieval import duplicate_lines
    from tf_instdisc.retrieval.duplicates import (
        find_duplicates,
        fraction_of_copies_found,
        training_images,
    )
    from tf_instdisc.runs import images as run_images
    from tf_instdisc.runs.encoding import encode_folder
    from tf_instdisc.runs.load import load_encoder

    run = finished.load()
    make_folders(*options.output)
    if options.folders:
        config, encoder = run.read_config(), load_encoder(run.path)
        places = [
            encode_folder(path, config, encoder) for path in options.folders
        ]
    else:
        images = run_images.open_images(run, moved.overrides())
        places = [training_images(images, run)]

    found = find_duplicates(
        places[0],
        options.threshold,
        places[1] if len(places) == 2 else None,
        options.max_pairs,
    )
    print(duplicate_lines.summary(found), file=sys.stderr)
    if found.radii is not None:
        encoder = load_encoder(run.path)
        fraction = fraction_of_copies_found(places[0], encoder, found.radii)
        if fraction is not None and fraction < _ENOUGH_COPIES:
            print(
                "warning: This encoder does not find duplicates reliably yet. "
                f"Of test copies that were cropped or mirrored, {fraction:.0%} "
                "are close enough to their originals to be found. Train for "
                "more epochs.",
                file=sys.stderr,
            )
    for path in options.output:
        if path == "-":
            print(duplicate_lines.duplicates_tsv(found), end="")
            continue
        if path.endswith(".tsv"):
            text = duplicate_lines.duplicates_tsv(found)
            atomic.write_text(path, text, errors="backslashreplace")
        else:
            title = " and ".join(place.title for place in places)
            pages.write(path, duplicate_page.duplicates_page(found, title))
        print(shown(str(path)))
