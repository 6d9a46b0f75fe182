# SPDX-License-Identifier: Apache-2.0
"""The report of a run: one HTML file to look at, and the results table as text."""

import pathlib
from collections.abc import Sequence

import numpy as np

from mrd_jax.evaluation import held_out_split, history, retrieval, table, zero_shot
from mrd_jax.evaluation import results as results_lib
from mrd_jax.evaluation.metrics import classification
from mrd_jax.evaluation.table import format_table
from mrd_jax.report import cards, embedding_map, figures, relations, templates

__all__ = ["format_table", "write_report"]

_DIRECTIONS = (
    ("points_to_text", "shape to name"),
    ("text_to_points", "name to shape"),
    ("points_to_image", "shape to picture"),
    ("image_to_points", "picture to shape"),
)


def write_report(
    workdir: str | pathlib.Path,
    *,
    held_out: held_out_split.HeldOut,
    embeddings: np.ndarray,
    results: Sequence[results_lib.Result],
    gallery: held_out_split.HeldOut | None = None,
    gallery_embeddings: np.ndarray | None = None,
    tracked: relations.TrackedShapes | None = None,
    title: str = "Training report",
    notes: Sequence[str] = (),
    limit: int = 200,
) -> pathlib.Path:
    """Writes `WORKDIR/report.html`, a page that needs no other file and no network.

    Args:
      workdir: has metrics.jsonl when the run was trained here; without it the page has no curves.
      held_out: the shapes.
      embeddings: [count, dim], the student's, one per shape of held_out and in its order.
      results: lines of the results table in their order, the student's among them.
      gallery: shapes that neighbours are looked up among, such as those of the training split;
        held_out itself by default.
      gallery_embeddings: [items, dim], the student's, one per shape of gallery.
      tracked: the shapes whose relations were saved at every evaluation; without them the page
        shows no relations.
      title: heading of the page.
      notes: paragraphs under it, such as the limits of the teacher.
      limit: most shapes in the gallery.

    Returns:
      The path of the page.

    Raises:
      ValueError: where only one of gallery and gallery_embeddings is given, or the embeddings do
        not fit the held-out shapes.
    """
    if (gallery is None) != (gallery_embeddings is None):
        raise ValueError("gallery and gallery_embeddings belong together: give both or neither")
    if gallery is None or gallery_embeddings is None:
        gallery, gallery_embeddings = held_out, embeddings
    own_gallery = gallery.ids == held_out.ids
    workdir = pathlib.Path(workdir)
    curves = workdir / history.FILE
    page = templates.load("page.html").render(
        title=title,
        notes=notes,
        curves=figures.curves(history.read_metrics(curves)) if curves.is_file() else [],
        headings=table.headings(),
        results=[(line, table.cells(line)) for line in results],
        comparisons=results_lib.compare_with_student(list(results)),
        measured=results[0].metrics,
        retrieval=[row for line in results for row in _retrieval_rows(line)],
        recall_at=retrieval.RECALL_AT,
        relations=_relations(workdir, tracked),
        map=embedding_map.make_map(embeddings, held_out=held_out, limit=limit),
        **_confusion(embeddings, held_out),
        cards=cards.make_cards(
            embeddings,
            held_out=held_out,
            gallery=gallery,
            gallery_embeddings=gallery_embeddings,
            limit=limit,
        ),
        count=len(held_out.ids),
        own_gallery=own_gallery,
        neighbour_count=len(gallery.ids) - own_gallery,
    )
    target = workdir / "report.html"
    target.write_text(page, "utf-8")
    return target


def _relations(
    workdir: pathlib.Path, tracked: relations.TrackedShapes | None
) -> figures.Figure | None:
    """The relation matrices, where there is something to draw."""
    snapshots = tracked.read(str(workdir)) if tracked else []
    return tracked.draw(snapshots) if tracked and snapshots else None


def _retrieval_rows(line: results_lib.Result) -> list[list[str]]:
    """Cells of the retrieval table for one method: a row per direction and set of queries."""
    rows = []
    for prefix, queries in (("", "all"), ("unseen/", "unseen names")):
        for direction, words in _DIRECTIONS:
            key = f"{prefix}{direction}"
            if f"{key}/queries" not in line.retrieval:
                continue
            recalls = [line.retrieval[f"{key}/recall@{k}"] for k in retrieval.RECALL_AT]
            rows.append(
                [
                    line.name,
                    words,
                    queries,
                    *(table.percent(recall) for recall in recalls),
                    f"{line.retrieval[f'{key}/median_rank']:g}",
                    f"{line.retrieval[f'{key}/queries']} in {line.retrieval[f'{key}/gallery']}",
                ]
            )
    return rows


def _confusion(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, figures.Figure | list[tuple[str, str, int]]]:
    """The confusion matrix and its largest entries off the diagonal."""
    scores = zero_shot.class_scores(embeddings, held_out)[held_out.labelled]
    best = zero_shot.predictions(scores, top=1).classes[:, 0]
    counts = classification.confusion(
        best, labels=held_out.labelled_classes, classes=len(held_out.class_names)
    )
    wrong = counts - np.diag(np.diag(counts))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:10]
    pairs = [np.unravel_index(flat, wrong.shape) for flat in largest]
    names = held_out.class_names
    return {
        "confusion": figures.confusion(counts, class_names=names),
        "confused": [(names[t], names[p], int(wrong[t, p])) for t, p in pairs if wrong[t, p]],
    }
