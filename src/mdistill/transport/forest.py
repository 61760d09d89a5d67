r"""Extremely randomised trees as arrays, evaluated in numpy: no pickle, and no scikit-learn where predictions are made.

    ŷ(x) = 1/T Σ_t v_t(x)      v_t(x): labels of the leaf of tree t that x falls into, averaged; x goes left where x_f ≤ threshold

Reference: Geurts, Ernst & Wehenkel, Machine Learning 63, 3 (2006), doi 10.1007/s10994-006-6226-1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int16, UInt8

from mdistill.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """Trees one after the other. A child code c ≥ 0 is the node c of the same tree; c < 0 is the row −1 − c of `values`.

    Attributes:
        starts: Number of nodes before each tree, and of all nodes.
        feature: Feature that a node compares.
        threshold: Largest value that goes left.
        left, right: Child codes.
        values: Mean target of a leaf, and share of its entries below detection.
    """

    starts: Int[np.ndarray, " tree_and_end"]
    feature: UInt8[np.ndarray, " node"]
    threshold: Float32[np.ndarray, " node"]
    left: Int16[np.ndarray, " node"]
    right: Int16[np.ndarray, " node"]
    values: Float[np.ndarray, "leaf 2"]

    @property
    def trees(self) -> int:
        return len(self.starts) - 1


FIELDS = ("starts", "feature", "threshold", "left", "right", "values")


def tree_values(forest: Forest, features: Float[np.ndarray, "material feature"]) -> Float[np.ndarray, "material tree 2"]:
    """Target and share below detection that each tree gives."""
    x = np.asarray(features, dtype=np.float32)
    first = np.where(np.diff(forest.starts) > 0, 0, -1)
    codes = np.broadcast_to(first, (len(x), forest.trees)).copy()
    rows, trees = np.nonzero(codes >= 0)
    while len(rows):
        node = forest.starts[trees] + codes[rows, trees]
        left = x[rows, forest.feature[node]] <= forest.threshold[node]
        codes[rows, trees] = np.where(left, forest.left[node], forest.right[node])
        inner = codes[rows, trees] >= 0
        rows, trees = rows[inner], trees[inner]
    return forest.values[-1 - codes]


def check_forest(forest: Forest, columns: int, source: object) -> None:
    """Reject arrays that are no forest, so that a walk through its trees ends inside the arrays.

    Raises:
        BadInput: Shapes, features, codes or values out of range.
    """
    nodes, sizes = len(forest.feature), np.diff(forest.starts)
    shapes = {len(getattr(forest, name)) for name in ("feature", "threshold", "left", "right")}
    sound = len(shapes) == 1 and forest.trees > 0 and forest.starts[0] == 0 and forest.starts[-1] == nodes
    sound = sound and bool((sizes >= 0).all()) and forest.values.ndim == 2 and forest.values.shape[1] == 2
    if sound:
        own = np.arange(nodes) - np.repeat(forest.starts[:-1], sizes)
        most = np.repeat(sizes, sizes)
        for code in (forest.left.astype(np.int64), forest.right.astype(np.int64)):
            inner = code >= 0
            sound = sound and bool((inner <= ((code > own) & (code < most))).all() and (code >= -len(forest.values)).all())
        sound = sound and bool((forest.feature < columns).all() and np.isfinite(forest.values).all())
        sound = sound and len(forest.values) > 0 and bool(np.isfinite(forest.threshold).all())
    if not sound:
        raise BadInput(source, "its trees are damaged", allowed="a file of mdistill train transport", fix="copy it again")


def forest_of(estimators: list[Any], features: np.ndarray, below: np.ndarray) -> Forest:
    """The trees of scikit-learn as arrays; leaves get the share of the entries below detection that fall into them.

    Thresholds are rounded down to float32, which moves no float32 feature to the other side.

    Args:
        estimators: Fitted regression trees, without bootstrap.
        features, below: What they were fitted to, and whether each entry is below detection.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("feature", "threshold", "left", "right")}
    leaf_values, starts = list[np.ndarray](), [0]
    count = 0
    for estimator in estimators:
        tree = estimator.tree_
        inner = tree.children_left >= 0
        number, leaf = np.cumsum(inner) - 1, np.cumsum(~inner) - 1
        code = np.where(inner, number, -1 - count - leaf)
        landed, size = tree.apply(np.asarray(features, dtype=np.float32)), len(inner)
        share = np.bincount(landed, weights=below, minlength=size) / np.maximum(np.bincount(landed, minlength=size), 1)
        leaf_values.append(np.column_stack([tree.value[:, 0, 0], share])[~inner])
        parts["feature"].append(tree.feature[inner])
        parts["threshold"].append(_rounded_down(tree.threshold[inner]))
        parts["left"].append(code[tree.children_left[inner]])
        parts["right"].append(code[tree.children_right[inner]])
        count, starts = count + int((~inner).sum()), [*starts, starts[-1] + int(inner.sum())]
    values, place = np.unique(np.concatenate(leaf_values), axis=0, return_inverse=True)
    left, right = (np.concatenate(parts[name]).astype(np.int64) for name in ("left", "right"))
    left, right = (np.where(code < 0, -1 - place.ravel()[np.minimum(-1 - code, count - 1)], code) for code in (left, right))
    return Forest(
        starts=np.array(starts, dtype=np.int64), feature=np.concatenate(parts["feature"]).astype(np.uint8),
        threshold=np.concatenate(parts["threshold"]), left=left.astype(np.int16), right=right.astype(np.int16), values=values,
    )  # fmt: skip


def _rounded_down(thresholds: np.ndarray) -> np.ndarray:
    rounded = thresholds.astype(np.float32)
    return np.where(rounded > thresholds, np.nextafter(rounded, np.float32(-np.inf)), rounded).astype(np.float32)
