# SPDX-License-Identifier: Apache-2.0
"""Reference implementation of the objective: loops over samples and pairs in numpy float64."""

import math

import numpy as np

STUDENT = {"intra": "PP", "image": "PV", "text": "PT"}


def unit_rows(values):
    return np.stack([row / np.linalg.norm(row) for row in np.asarray(values, np.float64)])


def pairs(batch, *, exclude_self, mask):
    """Yields each row with the list of its valid columns, which is empty for a masked row."""
    mask = [True] * batch if mask is None else mask
    for i in range(batch):
        yield i, [j for j in range(batch) if mask[i] and mask[j] and not (exclude_self and i == j)]


def log_relation(rows, columns, *, temperature, exclude_self=False, mask=None):
    result = np.full((len(rows), len(rows)), -np.inf)
    for i, valid in pairs(len(rows), exclude_self=exclude_self, mask=mask):
        weights = {j: math.exp(np.dot(rows[i], columns[j]) / temperature) for j in valid}
        for j in valid:
            result[i, j] = math.log(weights[j] / sum(weights.values()))
    return result


def distance_relation(rows, columns, *, metric, exclude_self=False, mask=None):
    def distance(x, y):
        return np.dot(x, y) if metric == "cosine" else math.sqrt(np.dot(x - y, x - y))

    between = [
        abs(distance(rows[i], columns[j]))
        for i, valid in pairs(len(rows), exclude_self=True, mask=mask)
        for j in valid
    ]
    result = np.full((len(rows), len(rows)), -np.inf)
    for i, valid in pairs(len(rows), exclude_self=exclude_self, mask=mask):
        for j in valid:
            result[i, j] = distance(rows[i], columns[j]) / np.mean(between) if between else 0
    return result


def row_divergence(target, student, kind):
    """Computes the divergence between two rows, given as their valid entries."""
    if not len(target):
        return 0.0
    error = student - target
    if kind == "l2":
        return np.mean(error**2)
    if kind == "smooth_l1":
        return np.mean([0.5 * e * e if abs(e) < 1 else abs(e) - 0.5 for e in error])
    q, r = np.exp(target), np.exp(student)
    m = (q + r) / 2

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    if kind == "js":
        return 0.5 * kl(q, m) + 0.5 * kl(r, m)
    return kl(q, r) + (kl(r, q) if kind == "jeffrey" else 0)


def divergence(target, student, *, kind):
    return np.array(
        [
            row_divergence(q[np.isfinite(q)], r[np.isfinite(r)], kind)
            for q, r in zip(target, student, strict=True)
        ]
    )


def contrastive_loss(points, teacher, *, scale, mask=None):
    result = np.zeros(len(points))
    for i, valid in pairs(len(points), exclude_self=False, mask=mask):
        for rows, columns in ((points, teacher), (teacher, points)):
            logits = {j: scale * np.dot(rows[i], columns[j]) for j in valid}
            if valid:
                total = sum(math.exp(logit) for logit in logits.values())
                result[i] += 0.5 * (math.log(total) - logits[i])
    return result


def multi_positive_loss(points, teacher, *, scale, mask):
    """Averages cross entropies of single positives, each among the features of other samples."""
    result = np.zeros(len(points))
    present = [i for i in range(len(points)) if any(mask[i])]
    for i in present:
        costs = []
        for m in np.flatnonzero(mask[i]):
            positive = scale * np.dot(points[i], teacher[i][m])
            negatives = [
                scale * np.dot(points[i], teacher[j][n])
                for j in present
                for n in np.flatnonzero(mask[j])
                if j != i
            ]
            clouds = [scale * np.dot(points[j], teacher[i][m]) for j in present]
            for logits in ([positive, *negatives], clouds):
                costs.append(math.log(sum(math.exp(logit) for logit in logits)) - positive)
        result[i] = np.mean(costs)
    return result


def mean_of_valid(rows, mask):
    return sum(rows[np.asarray(mask)]) / max(sum(mask), 1)


def mrd_loss(embeddings, weights, config, *, lambda_factor=1.0):
    """Returns all parts of the objective as floats."""
    batch = {"P": unit_rows(embeddings["points"])}
    masks = {"P": np.ones(len(batch["P"]), bool)}
    drawn, slots = {}, {}
    for letter, name in (("V", "image"), ("T", "text")):
        # One positive is a list of one.
        shape = (len(batch["P"]), -1)
        slots[letter] = np.asarray(embeddings[f"has_{name}"]).reshape(shape)
        rows = np.asarray(embeddings[name]).reshape(*shape, batch["P"].shape[1])
        drawn[letter] = np.stack([unit_rows(row) for row in rows])
        masks[letter] = slots[letter].any(axis=1)
        batch[letter] = drawn[letter][:, 0]
        if config.relation_features == "mean":
            batch[letter] = unit_rows(embeddings[f"{name}_mean"])

    # A relation head takes the place of the points in the distillation terms.
    related = batch | {"P": unit_rows(embeddings.get("relation_points", embeddings["points"]))}

    def relate(name, temperature, exclude_self, mask):
        rows, columns = related[name[0]], related[name[1]]
        keywords = {"exclude_self": exclude_self, "mask": mask}
        if config.relation == "similarity":
            return log_relation(rows, columns, temperature=temperature, **keywords)
        return distance_relation(rows, columns, metric=config.relation, **keywords)

    def present(*names):
        return np.all([masks[modality] for modality in "".join(names)], axis=0)

    parts = dict.fromkeys(("contrastive_image", "contrastive_text", "intra", "image", "text"), 0.0)
    scale = math.exp(min(embeddings["log_scale"], config.log_scale_max))
    for letter, name in (("V", "image"), ("T", "text")):
        if config[f"{name}_weight"]:
            if drawn[letter].shape[1] == 1:
                rows = contrastive_loss(
                    batch["P"], drawn[letter][:, 0], scale=scale, mask=masks[letter]
                )
            else:
                rows = multi_positive_loss(
                    batch["P"], drawn[letter], scale=scale, mask=slots[letter]
                )
            parts[f"contrastive_{name}"] = mean_of_valid(rows, masks[letter])
            nearest = [
                max(
                    np.argwhere(slots[letter]).tolist(),
                    key=lambda slot, i=i: np.dot(batch["P"][i], drawn[letter][tuple(slot)]),
                    default=[-1],
                )[0]
                for i in range(len(rows))
            ]
            correct = np.array(nearest) == np.arange(len(rows))
            parts[f"accuracy_{name}"] = mean_of_valid(correct, masks[letter])
    parts["contrastive"] = (
        config.image_weight * parts["contrastive_image"]
        + config.text_weight * parts["contrastive_text"]
    )

    def teacher_temperature(term, name):
        temperatures = config.teacher_temperatures[term]
        if not temperatures:
            return config.teacher_temperature
        return temperatures[list(config.candidates[term]).index(name)]

    def student_temperature(term, name=None):
        if config.student_temperature_follows == "contrastive":
            return 1 / scale
        if config.student_temperature_follows == "teacher":
            return teacher_temperature(term, name)
        is_cross = term != "intra" and config.student_temperature_cross > 0
        if config.learn_student_temperature:
            return math.exp(weights["student_log_temperature" + "_cross" * is_cross])
        return config.student_temperature_cross if is_cross else config.student_temperature

    parts["entropy"] = 0.0
    for term, student in STUDENT.items():
        if not config[f"lambda_{term}"]:
            continue
        names = config.candidates[term]
        logits = np.zeros(len(names))
        if config.weights == "dynamic":
            logits = np.asarray(weights["mixing"][term], np.float64)
        w = np.exp(logits) / np.sum(np.exp(logits))
        parts["entropy"] += config.entropy_weight * (math.log(len(w)) + np.sum(w * np.log(w)))
        exclude_self = config.exclude_self_intra if term == "intra" else config.exclude_self_cross
        if config.mix == "divergences":
            for name in names:
                mask = present(student, name)
                rows = divergence(
                    relate(name, teacher_temperature(term, name), exclude_self, mask),
                    relate(student, student_temperature(term, name), exclude_self, mask),
                    kind=config.divergence,
                )
                parts[f"{term}/{name}"] = mean_of_valid(rows, mask)
            parts[term] = sum(x * parts[f"{term}/{name}"] for x, name in zip(w, names, strict=True))
        else:
            mask = present(student, *names)
            targets = [relate(n, teacher_temperature(term, n), exclude_self, mask) for n in names]
            if config.relation == "similarity":
                targets = [np.exp(target) for target in targets]
            mixture = sum(x * target for x, target in zip(w, targets, strict=True))
            if config.relation == "similarity":
                with np.errstate(divide="ignore"):
                    mixture = np.log(mixture)
            student_relation = relate(student, student_temperature(term), exclude_self, mask)
            rows = divergence(mixture, student_relation, kind=config.divergence)
            parts[term] = mean_of_valid(rows, mask)
    active = [term for term in STUDENT if config[f"lambda_{term}"]]
    factors = dict.fromkeys(active, 1.0)
    if config.term_weights == "dynamic":
        chosen = {t: math.exp(weights["term_mixing"][i]) for i, t in enumerate(STUDENT)}
        for term in active:
            share = chosen[term] / sum(chosen[other] for other in active)
            factors[term] = (
                config.term_weight_floor + (1 - config.term_weight_floor) * len(active) * share
            )
            w = factors[term] / len(active)
            parts["entropy"] += config.entropy_weight * w * math.log(w * len(active))
    parts["total"] = (
        parts["contrastive"]
        + lambda_factor * sum(config[f"lambda_{t}"] * factors[t] * parts[t] for t in active)
        + parts["entropy"]
    )
    return parts


def numeric_gradient(function, values, *, step=1e-5):
    """Computes central differences of a scalar function of one float64 array."""
    values = np.array(values, np.float64)
    gradient = np.zeros_like(values)
    for index in np.ndindex(values.shape):
        centre = values[index]
        values[index] = centre + step
        above = function(values)
        values[index] = centre - step
        below = function(values)
        values[index] = centre
        gradient[index] = (above - below) / (2 * step)
    return gradient


def assert_close(actual, expected, *, tolerance=1e-5):
    """Compares within a tolerance relative to the largest expected magnitude, or to 1 if larger."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_array_equal(np.isneginf(actual), np.isneginf(expected))
    finite = np.isfinite(expected)
    largest = max(1.0, np.max(np.abs(expected), initial=0.0, where=finite))
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=0, atol=tolerance * largest)
