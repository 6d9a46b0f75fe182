# SPDX-License-Identifier: Apache-2.0
"""Clusters the shapes of an index, and names the clusters.

python -m mrd_jax.tools.cluster my_index --output clusters
python -m mrd_jax.tools.cluster my_index --k 20 --words words.txt --output clusters

Clusters are found by k-means of the embeddings. Without --k, their number is the one, of those up
to 64, with the largest mean silhouette. They are named by the names of a list that are nearest to
their centres (--words, one name per line in UTF-8), or else by the words that are most frequent in
the names of their shapes. Into the folder --output go

  clusters.csv   per shape: its cluster, and the cosine similarity with the centre
  clusters.json  per cluster: its name, its size, and the shapes nearest to its centre; and the
                 silhouettes by number of clusters
  index.html     the shapes nearest to the centre of each cluster
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from mrd_jax.cli import command
from mrd_jax.distributed import compilation_cache
from mrd_jax.library import class_names, clusters, labelling, output
from mrd_jax.search import queries, shape_index

# Words per cluster, and shapes per cluster on the page and in the JSON file.
_WORDS, _SHOWN = 3, 12


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    words = class_names.read(options.words) if options.words else None
    for note in words.notes if words else ():
        print(f"note: {note}", file=sys.stderr)
    index = shape_index.read(options.index)
    folder = output.prepare_folder(options.output)
    teacher = None
    if words:
        teacher = queries.load_teacher(index, options.teacher, text_batch=labelling.TEXT_BATCH)
    found = clusters.find(index, k=options.k, seed=options.seed)
    named = clusters.name_by_shapes(index, found, count=_WORDS)
    if words and teacher:
        encoder = labelling.NameEncoder(teacher, words, templates=options.prompts)
        best = labelling.TopClasses(found.centres, count=_WORDS)
        for names, features in encoder.chunks():
            best.add(names, features)
        named = best.labels().names
    titles = clusters.unique_names([(row or ["no names"])[0] for row in named])
    _write(folder, index, found, titles, named)
    chosen = "" if options.k else f" (chosen of {', '.join(map(str, found.silhouettes))})"
    print(f"{len(titles)} clusters{chosen} of {len(index)} shapes; wrote {folder}")
    return 0


def _write(
    folder,
    index: shape_index.ShapeIndex,
    found: clusters.Clusters,
    titles: Sequence[str],
    named: Sequence[Sequence[str]],
) -> None:
    """Writes the CSV file, the JSON file and the page."""
    output.write_csv(
        folder / "clusters.csv",
        ("id", "name", "cluster", "cluster_name", "similarity"),
        (
            (item.id, item.name, of + 1, titles[of], round(float(score), 4))
            for item, of, score in zip(index.items, found.of, found.similarity, strict=True)
        ),
    )
    sections, summary = [], []
    for number, (title, names) in enumerate(zip(titles, named, strict=True)):
        members = found.members(number)
        mean = float(np.mean(found.similarity[members]))
        shown = members[:_SHOWN]
        summary.append(
            {
                "cluster": number + 1,
                "name": title,
                "words": [*names],
                "shapes": len(members),
                "mean_similarity": round(mean, 4),
                "nearest": [index.items[row].id for row in shown],
            }
        )
        sections.append(
            output.Section(
                title,
                notes=(
                    f"{len(members)} shapes; words: {', '.join(names) or 'none'}; mean similarity "
                    f"with the centre {mean:.2f}. Shown are the {len(shown)} nearest to it.",
                ),
                cards=[
                    output.make_card(index, row, [f"similarity {found.similarity[row]:.2f}"])
                    for row in shown
                ],
            )
        )
    silhouettes = {str(k): round(value, 4) for k, value in found.silhouettes.items()}
    output.write_json(folder / "clusters.json", {"clusters": summary, "silhouettes": silhouettes})
    output.write_page(
        folder / output.PAGE,
        title="Clusters of shapes",
        notes=[f"{len(index)} shapes in {len(titles)} clusters, by k-means of their embeddings."],
        sections=sections,
    )


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.cluster")
    add = parser.add_argument
    add("index", type=command.path, metavar="INDEX", help="folder of the index")
    add("--output", required=True, type=command.local_path, help="folder of the results")
    add("--k", type=int, default=0, help="number of clusters (default: chosen by silhouette)")
    add("--words", type=command.local_path, help="text file with names for clusters, one per line")
    add("--teacher", help="with --words: hub name or folder (default: recorded in the index)")
    add(
        "--prompts",
        choices=tuple(labelling.PROMPTS),
        default="evaluation",
        help="with --words: prompts per name, 64 as in the evaluation, or 8 as in the search "
        "(default: evaluation)",
    )
    add("--seed", type=int, default=0, help="seed of the starting centres (default: 0)")
    options = parser.parse_args(arguments)
    if options.k < 0 or options.k == 1:
        parser.error(f"--k is {options.k}; expected 2 or more")
    return options


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
