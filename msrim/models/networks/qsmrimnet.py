"""QSMRim-Net: image and radiomic features, and a minority oversampled in feature space (Zhang et al. 2022,
doi:10.1016/j.nicl.2022.102979).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from msrim.models.networks.resnet import ResNet18
from msrim.models.networks.rimnet import Branches

FEATURES = 527


class Dense(nn.Sequential):
    """Linear layer, batch norm, Swish."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(nn.Linear(in_features, out_features), nn.BatchNorm1d(out_features), nn.SiLU())


class Scale(nn.Module):
    """Features to mean 0 and deviation 1, by the training data's statistics, which are kept with the weights.

    Features that are not defined for a lesion (NaN) get the mean; values are cut at 5 deviations.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))

    def fit(self, features: Tensor) -> None:
        """Take the statistics of (N, features), NaN left out."""
        known = ~features.isnan()
        count = known.sum(0).clamp(min=1)
        features = features.double().nan_to_num(0)
        mean = features.sum(0) / count
        variance = (known * (features - mean) ** 2).sum(0) / count
        self.mean.copy_(mean)
        self.deviation.copy_(variance.sqrt().clamp(min=1e-6 + 1e-6 * mean.abs()))

    def forward(self, features: Tensor) -> Tensor:
        return ((features - self.mean) / self.deviation).nan_to_num(0).clamp(-5, 5)


class RadiomicBranch(nn.Sequential):
    """527 features to 1024 and 512; alone, with a linear layer, it is APRL (NN)."""

    def __init__(self, features: int = FEATURES, dropout: float = 0.3) -> None:
        super().__init__(Scale(features), Dense(features, 1024), nn.Dropout(dropout), Dense(1024, 512))


class DeepSmote(nn.Module):
    """Layers that mix the features, then new rim+ rows between neighbours (section 2.2.3, Fig. 5).

    Parameters
    ----------
    in_features : int
    width : int

    Notes
    -----
    Maps (N, in_features) to (N, width), and, given labels, to (N + 2n, width): for each of the n rim+ rows one on the
    way to each of its two nearest rim+ neighbours. With fewer than three rim+ rows none are made.
    """

    def __init__(self, in_features: int, width: int = 512) -> None:
        super().__init__()
        self.mix = nn.Sequential(Dense(in_features, width), Dense(width, width))

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        mixed = self.mix(features)
        return mixed if labels is None else torch.cat([mixed, between_neighbours(mixed[labels > 0.5])])


def between_neighbours(rows: Tensor) -> Tensor:
    """Two rows for each: at a random point of the segments to its two nearest neighbours (Eq. 1 and 2).

    Parameters
    ----------
    rows : (n, F)

    Returns
    -------
    (2n, F), or (0, F) if n < 3

    Examples
    --------
    >>> between_neighbours(torch.eye(4)).shape, between_neighbours(torch.eye(2)).shape
    (torch.Size([8, 4]), torch.Size([0, 2]))
    """
    if len(rows) < 3:
        return rows[:0]
    distance = torch.cdist(rows.detach().float(), rows.detach().float())
    distance.fill_diagonal_(torch.inf)
    nearest = distance.topk(2, largest=False).indices
    share = torch.rand(len(rows), 2, 1, device=rows.device, dtype=rows.dtype)
    return (share * rows[:, None] + (1 - share) * rows[nearest]).flatten(0, 1)


class QSMRimNet(nn.Module):
    """ResNet-18 on QSM and FLAIR inside the lesion, joined to the radiomic branch, DeepSMOTE, and a linear layer.

    Parameters
    ----------
    images : int
    image_fusion : bool
        QSM and FLAIR enter one network as channels; otherwise each a branch of RimNet's (Table 3).
    radiomics, smote : bool
        Whether there is a radiomic branch, and oversampling in training (Table 3).
    fusion : str
        "concatenate" the branches, as in the text, or "add" them, as the authors' published network does.
    widths : sequence of int
        Channels of the ResNet's stages; "add" needs the last to be 512.

    Notes
    -----
    Maps patches (N, images, X, Y, Z) and features (N, 527) to logits (N,); with labels (N,), in training, to
    (N + 2n,), the last 2n of synthetic rim+ lesions.
    """

    def __init__(
        self,
        images: int = 2,
        image_fusion: bool = True,
        radiomics: bool = True,
        smote: bool = True,
        fusion: Literal["concatenate", "add"] = "concatenate",
        widths: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        super().__init__()
        self.smote, self.fusion = smote, fusion
        self.image: nn.Module = ResNet18(images, widths=widths)
        if not image_fusion:
            self.image = nn.Sequential(Branches(images, widths), nn.Linear(images * widths[-1], widths[-1]), nn.ReLU())
        self.radiomic = RadiomicBranch() if radiomics else None
        joined = widths[-1] + 512 if radiomics and fusion == "concatenate" else widths[-1]
        self.oversample = DeepSmote(joined)
        self.classify = nn.Linear(512, 1)

    def forward(self, images: Tensor, features: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.image(images)
        if self.radiomic is not None:
            radiomic = self.radiomic(features)
            x = torch.cat([x, radiomic], dim=1) if self.fusion == "concatenate" else x + radiomic
        return self.classify(self.oversample(x, labels if self.smote else None))[:, 0]


class RadiomicNet(nn.Module):
    """APRL (NN): the radiomic branch alone.

    Notes
    -----
    Maps features (N, 527) to logits (N,).
    """

    def __init__(self) -> None:
        super().__init__()
        self.radiomic = RadiomicBranch()
        self.classify = nn.Linear(512, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.classify(self.radiomic(features))[:, 0]
