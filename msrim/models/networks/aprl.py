"""APRL: SMOTE and a random forest on first-order features (Lou et al. 2021, doi:10.1016/j.nicl.2021.102796).

scikit-learn grows the trees; here they are tables in tensors, so that their weights are safetensors like all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier


class Forest(nn.Module):
    """A random forest as tables.

    Parameters
    ----------
    trees, nodes : int
        Number of trees, and of the nodes of the largest.
    columns : sequence of int
        Which of the 527 radiomic features the trees know, in their order.

    Notes
    -----
    Maps features (N, 527) to logits (N,): of the mean over the trees of the share of rim+ in the leaf, as
    scikit-learn's ``predict_proba`` has it.
    """

    below: Tensor
    feature: Tensor
    threshold: Tensor
    share: Tensor

    def __init__(self, trees: int = 1, nodes: int = 1, columns: list[int] | None = None) -> None:
        super().__init__()
        self.columns = columns or [0]
        # A leaf is its own child on both sides.
        self.register_buffer("below", torch.arange(nodes).repeat(trees, 2, 1))
        self.register_buffer("feature", torch.zeros(trees, nodes, dtype=torch.long))
        self.register_buffer("threshold", torch.zeros(trees, nodes, dtype=torch.float64))
        self.register_buffer("share", torch.zeros(trees, nodes, dtype=torch.float64))

    @classmethod
    def of(cls, forest: RandomForestClassifier, *, columns: list[int]) -> Forest:
        """The tables of a fitted forest of two classes."""
        trees = [estimator.tree_ for estimator in forest.estimators_]
        tables = cls(len(trees), max(tree.node_count for tree in trees), columns)
        for index, tree in enumerate(trees):
            n = tree.node_count
            for side, children in enumerate((tree.children_left, tree.children_right)):
                tables.below[index, side, :n] = torch.from_numpy(np.where(children < 0, np.arange(n), children))
            tables.feature[index, :n] = torch.from_numpy(np.maximum(tree.feature, 0))
            tables.threshold[index, :n] = torch.from_numpy(tree.threshold)
            tables.share[index, :n] = torch.from_numpy(tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1))
        return tables

    def forward(self, features: Tensor) -> Tensor:
        # scikit-learn compares in float32.
        known = features[:, self.columns].nan_to_num(0).float().double()
        tree = torch.arange(len(self.feature), device=features.device)[:, None]
        node = torch.zeros(len(self.feature), len(known), dtype=torch.long, device=features.device)
        while True:
            value = known[torch.arange(len(known), device=known.device), self.feature[tree, node]]
            following = self.below[tree, (value > self.threshold[tree, node]).long(), node]
            if torch.equal(following, node):
                break
            node = following
        return torch.logit(self.share[tree, node].mean(0), eps=1e-6).float()
