"""Which pieces are one voice, and who is who: pure functions over arrays, without audio, networks or time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_FAR = -2.0  # below every similarity: not to be merged


def average_linkage(sums: np.ndarray, weights: np.ndarray, links: np.ndarray, threshold: float) -> list[list[int]]:
    """Agglomerative clustering: merges the two most alike clusters for as long as they reach `threshold`.

    A row is a weighted sum of embeddings [n, d] with its weight [n]; how alike two clusters are is the mean product of
    their members plus what `links` [n, n] adds. Returns each cluster's rows, in the order of their first.
    """
    count = len(weights)
    means = sums / weights[:, None]
    alike = np.maximum(means @ means.T + links, _FAR / 2)
    np.fill_diagonal(alike, _FAR)
    weights = weights.copy()
    clusters: dict[int, list[int]] = {row: [row] for row in range(count)}
    while len(clusters) > 1:
        first, second = sorted(divmod(int(alike.argmax()), count))
        if alike[first, second] < threshold:
            break
        merged = (weights[first] * alike[first] + weights[second] * alike[second]) / (weights[first] + weights[second])
        gone = (alike[first] == _FAR) | (alike[second] == _FAR)  # themselves, and what was merged away
        alike[first] = alike[:, first] = np.where(gone, _FAR, merged)
        alike[second] = alike[:, second] = _FAR
        weights[first] += weights[second]
        clusters[first] += clusters.pop(second)
    return list(clusters.values())


def inherit_labels(
    clusters: Sequence[Sequence[int]], labels: np.ndarray, weights: np.ndarray, next_label: int
) -> tuple[list[int], int]:
    """A label for each cluster, so that as much weight as possible keeps the label it had (-1: none), greedily.

    Where clusters were merged the heavier label stays; what is new gets new ones. Returns them, and the next new label.
    """
    claims: dict[tuple[int, int], float] = {}
    for number, rows in enumerate(clusters):
        for row in rows:
            if labels[row] >= 0:
                key = (number, int(labels[row]))
                claims[key] = claims.get(key, 0.0) + float(weights[row])
    found = [-1] * len(clusters)
    for number, label in sorted(claims, key=lambda key: (-claims[key], key[1])):
        if found[number] < 0 and label not in found:
            found[number] = label
    for number, label in enumerate(found):
        if label < 0:
            found[number] = next_label
            next_label += 1
    return found, next_label


def fill_gaps(active: np.ndarray, longest: int) -> np.ndarray:
    """Closes silences of fewer than `longest` frames in [frames, speakers] for those who speak before and after."""
    filled = active.copy()
    spoken = np.flatnonzero(active.any(axis=1))
    lengths = np.diff(spoken)
    for gap in np.flatnonzero((lengths > 1) & (lengths <= longest)):
        before, after = spoken[gap], spoken[gap + 1]
        filled[before + 1 : after] = active[before] & active[after]
    return filled


def runs(active: np.ndarray) -> list[tuple[int, int]]:
    """Where a row of booleans is true: first frames, and those after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], active.astype(np.int8), [0]])))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
