# SPDX-License-Identifier: Apache-2.0
"""Report of a run: one HTML page, and the results table as text."""

from collections.abc import Sequence

import numpy as np

from mrd_jax import atomic_io, pages, storage
from mrd_jax.evaluation import held_out_split, history, retrieval, table, zero_shot
from mrd_jax.evaluation.metrics import classification
from mrd_jax.evaluation.results import Result, compare_with_student
from mrd_jax.evaluation.table import format_table
from mrd_jax.report import embedding_map, figures, relations, shape_cards

__all__ = ["format_table", "write_report"]

_DIRECTIONS = (
    ("points_to_text", "shape to name"),
    ("text_to_points", "name to shape"),
    ("points_to_image", "shape to picture"),
    ("image_to_points", "picture to shape"),
)


def write_report(
    workdir: storage.PathLike,
    *,
    held_out: held_out_split.HeldOut,
    embeddings: np.ndarray,
    results: Sequence[Result],
    gallery: held_out_split.HeldOut | None = None,
    gallery_embeddings: np.ndarray | None = None,
    tracked: relations.TrackedShapes | None = None,
    title: str = "Training report",
    notes: Sequence[str] = (),
    limit: int = 200,
) -> storage.Path:
    """Writes `WORKDIR/report.html`, a page that needs no other files and no network.

    Args:
      workdir: folder of the run; without a metrics.jsonl in it, the page has no curves.
      held_out: held-out split.
      embeddings: [count, dim], embeddings of the student, one per shape of `held_out`, in its
        order.
      results: rows of the results table, the student among them.
      gallery: training shapes, among which nearest neighbours are looked up; `held_out` by default.
      gallery_embeddings: [items, dim], embeddings of the student, one per shape of `gallery`.
      tracked: shapes whose relations were saved at every evaluation; without them, the page has no
        relation matrices.
      title: heading of the page.
      notes: paragraphs under the heading, such as limitations of the teacher.
      limit: maximum number of shapes on the map and of shape cards.

    Returns:
      The path of the page.

    Raises:
      ValueError: only one of `gallery` and `gallery_embeddings` is given, or the embeddings do not
        match the held-out shapes.
    """
    if (gallery is None) != (gallery_embeddings is None):
        raise ValueError("gallery and gallery_embeddings belong together: give both or neither")
    if gallery is None or gallery_embeddings is None:
        gallery, gallery_embeddings = held_out, embeddings
    own_gallery = gallery.ids == held_out.ids
    folder = storage.path(workdir)
    metrics_file = folder / history.FILE
    curves = history.read_metrics(metrics_file) if metrics_file.is_file() else {}
    page = pages.load(__name__, "page.html").render(
        title=title,
        notes=notes,
        curves=figures.draw_curves(curves),
        headings=table.headings(),
        intervals=table.describe_intervals(results),
        results=[(result, table.cells(result)) for result in results],
        comparisons=compare_with_student(list(results)),
        measured=results[0].metrics,
        retrieval=[row for result in results for row in _retrieval_rows(result)],
        recall_at=retrieval.RECALL_AT,
        relations=_draw_relations(folder, tracked),
        map=embedding_map.make_map(embeddings, held_out=held_out, limit=limit),
        **_confusion(embeddings, held_out),
        cards=shape_cards.make_cards(
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
    target = folder / "report.html"
    atomic_io.write_text(target, page)
    return target


def _draw_relations(
    workdir: storage.Path, tracked: relations.TrackedShapes | None
) -> figures.Figure | None:
    """Draws the relation matrices; None if no relations were saved."""
    snapshots = tracked.read(workdir) if tracked else []
    return tracked.draw(snapshots) if tracked and snapshots else None


def _retrieval_rows(result: Result) -> list[list[str]]:
    """Formats the retrieval table of one method: a row per direction and set of queries."""
    rows = []
    for prefix, queries in (("", "all"), ("unseen/", "unseen names")):
        for direction, title in _DIRECTIONS:
            key = f"{prefix}{direction}"
            if f"{key}/queries" not in result.retrieval:
                continue
            recalls = [result.retrieval[f"{key}/recall@{k}"] for k in retrieval.RECALL_AT]
            rows.append(
                [
                    result.name,
                    title,
                    queries,
                    *(table.percent(recall) for recall in recalls),
                    f"{result.retrieval[f'{key}/median_rank']:g}",
                    str(result.retrieval[f"{key}/queries"]),
                    str(result.retrieval[f"{key}/gallery"]),
                ]
            )
    return rows


def _confusion(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, figures.Figure | list[tuple[str, str, int]]]:
    """Draws the confusion matrix and lists its largest entries off the diagonal."""
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
        "confusion": figures.draw_confusion(counts, class_names=names),
        "confused": [(names[t], names[p], int(wrong[t, p])) for t, p in pairs if wrong[t, p]],
    }
