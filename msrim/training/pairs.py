"""Training samples for networks that compare two visits: pairs made from single visits, marked pairs, single visits.

A pair is made from one visit of a real patient. At either visit some of the patient's lesions are taken out, a rim
around some is painted on, and lesions of other people are painted in; then each visit goes through a scanner of its
own: a residual misplacement, bias, contrast, blur, slice thickness, noise. Tissue that is lesion at follow-up alone is
new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cc3d
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from msrim.training import synthesis
from msrim.training.contrasts import PAINTED_CONTRAST
from msrim.training.lesions import LesionBank, LesionMap, Patient, lesions_at

# The paper's: crops are centred on a random voxel of foreground and shifted by so much at most.
MAX_SHIFT_VOXELS = 10
# Chances of what becomes of a lesion between the visits, before and after are equally likely to lack it.
ABSENT, GROWN = 0.25, 0.25
# Pairs without any change teach what two scanners' differences look like.
UNCHANGED = 0.2
# Registration error: well under a voxel, standard deviations.
RESIDUAL_SHIFT_VOXELS, RESIDUAL_TURN_DEG = 0.25, 0.3


@dataclass(frozen=True, eq=False)
class MarkedPair:
    """Two real visits on the midway grid with the new lesions marked.

    Attributes
    ----------
    name : str
        The patient's.
    images : (2, X, Y, Z) float32 tensor
        Matched FLAIRs of baseline and follow-up, zero outside the brain.
    new : (X, Y, Z) bool array
    """

    name: str
    images: Tensor
    new: np.ndarray

    @cached_property
    def foreground(self) -> np.ndarray:
        """Voxels of new lesions: (n, 3) int."""
        return np.argwhere(self.new)


@dataclass(frozen=True)
class PairProtocol:
    """Which samples are drawn, and when the relations between the heads count.

    Attributes
    ----------
    samples : int
        Of the whole training.
    seed : int
        Sample ``i`` is a function of ``seed`` and ``i`` alone.
    kinds : str
        "both", "pairs" or "singles" (Table 3 of the paper).
    relation_loss, relation_warmup : bool
        lambda2 is 1 if ``relation_loss``, but 0 in the first half if ``relation_warmup``.
    """

    samples: int
    seed: int = 0
    kinds: str = "both"
    relation_loss: bool = True
    relation_warmup: bool = True

    def is_single(self, index: int) -> bool:
        """Whether a sample is a single visit."""
        return self.kinds == "singles" or (self.kinds == "both" and index % 2 == 0)

    def relation_weight(self, index: int) -> float:
        """The paper's lambda2 of a sample."""
        second_half = 2 * index >= self.samples
        return float(self.relation_loss and (second_half or not self.relation_warmup))


class VisitCrops(Dataset[tuple[Tensor, ...]]):
    """Endless random crops of single visits and pairs by turns, so that every batch of even size holds as many of each.

    Parameters
    ----------
    patients : list of Patient
        Single visits with all lesions marked.
    pairs : list of MarkedPair
        Real pairs; without any, pairs are made from ``patients``.
    bank : LesionBank or None
        Lesions of other people to paint in.
    channel : int
        Which of the patients' images is the FLAIR.
    shape : (3,) int
        Of the crop, voxels.
    protocol : PairProtocol
    """

    def __init__(
        self,
        patients: Sequence[Patient],
        pairs: Sequence[MarkedPair],
        bank: LesionBank | None,
        *,
        channel: int,
        shape: Sequence[int],
        protocol: PairProtocol,
    ) -> None:
        names = sorted({patient.name for patient in patients})
        self.visits = [[patient for patient in patients if patient.name == name] for name in names]
        self.lesions = {patient: np.argwhere(patient.lesions) for patient in patients}
        self.pairs, self.bank, self.channel = list(pairs), bank, channel
        self.shape, self.protocol = tuple(shape), protocol

    def __len__(self) -> int:
        return self.protocol.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Input (3, X, Y, Z), and the arguments of :func:`msrim.training.coactseg_loss.coactseg_loss`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.protocol.seed, index))
        if self.protocol.is_single(index):
            sample = self._single(rng)
        elif self.pairs:
            sample = self._marked_pair(rng)
        else:
            sample = self._made_pair(rng)
        return *sample, torch.tensor(self.protocol.relation_weight(index))

    def _single(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        patient, points = self._place(rng)
        flair, lesions, brain, _ = self._crop(patient, points, rng)
        image = _scanned(flair, rng) * brain
        truth = lesions.float()[None].repeat(2, 1, 1, 1)
        return (
            torch.cat([image, image, torch.zeros_like(image)]),
            truth,
            torch.zeros_like(truth[:1]),
            torch.tensor([True, False]),
        )

    def _made_pair(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        patient, points = self._place(rng)
        flair, lesions, brain, white = self._crop(patient, points, rng)
        visits, masks = [flair, flair.clone()], [lesions.clone(), lesions.clone()]
        if rng.random() >= UNCHANGED:
            self._change(visits, masks, white=white, patient=patient, points=points, rng=rng)
        images = [_misplaced(_scanned(visit, rng), rng) * brain for visit in visits]
        truth = torch.stack(masks).float()
        return (
            torch.cat([*images, images[1] - images[0]]),
            truth,
            (masks[1] & ~masks[0]).float()[None],
            torch.tensor([True, True]),
        )

    def _marked_pair(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Flipped and turned by right angles, as the paper does: real pairs keep their scanners' differences."""
        pair = self.pairs[rng.integers(len(self.pairs))]
        inside = np.argwhere(pair.images[0].numpy() != 0)
        voxels = pair.foreground if len(pair.foreground) else inside
        centre = voxels[rng.integers(len(voxels))] + rng.integers(-MAX_SHIFT_VOXELS, MAX_SHIFT_VOXELS + 1, 3)
        # A crop of even size has its middle between voxels: half a voxel on, none is interpolated.
        points = synthesis.sampling_points(
            rng, self.shape, centre=centre + 0.5, matrix=_right_angles(rng), elastic_voxels=0
        )
        images = synthesis.sample_at(pair.images, points)
        new = synthesis.sample_at(torch.from_numpy(pair.new)[None].float(), points) > 0.5
        nothing = torch.zeros(2, *images.shape[1:])
        return torch.cat([images, images[1:] - images[:1]]), nothing, new.float(), torch.tensor([False, True])

    def _place(self, rng: np.random.Generator) -> tuple[Patient, Tensor]:
        """A visit, and where each voxel of the crop lies in it."""
        visits = self.visits[rng.integers(len(self.visits))]
        patient = visits[rng.integers(len(visits))]
        voxels = self.lesions[patient]
        if not len(voxels):
            voxels = np.argwhere(patient.brain)
        centre = voxels[rng.integers(len(voxels))] + rng.integers(-MAX_SHIFT_VOXELS, MAX_SHIFT_VOXELS + 1, 3)
        matrix = synthesis.random_affine(rng, max_angle_deg=10, scale=(0.9, 1.15))
        points = synthesis.sampling_points(
            rng, self.shape, centre=centre.astype(float), matrix=matrix, elastic_voxels=rng.uniform(0, 1.5)
        )
        return patient, points

    def _crop(
        self, patient: Patient, points: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """FLAIR (1, X, Y, Z), with about unit deviation in the brain; lesions, brain and white matter (X, Y, Z)."""
        image = patient.images[self.channel : self.channel + 1]
        inside = image[0, torch.from_numpy(patient.brain)].float()
        flair = (synthesis.sample_at(image, points) - inside.mean()) / inside.std()
        flair = flair * np.exp(rng.normal(0, 0.1)) + rng.normal(0, 0.1)
        lesions, brain, white = synthesis.sample_at(patient.masks[:3], points) > 0.5
        return flair, lesions, brain, white

    def _change(
        self,
        visits: list[Tensor],
        masks: list[Tensor],
        *,
        white: Tensor,
        patient: Patient,
        points: Tensor,
        rng: np.random.Generator,
    ) -> None:
        """Take lesions out, let them grow, and paint others in, at one visit or the other."""
        lesions = masks[0].clone()
        normal = _normal_tissue(visits[0], white & ~lesions)
        parts = torch.from_numpy(cc3d.connected_components(lesions.numpy(), connectivity=26).astype(np.int64))
        for number in range(1, int(parts.max()) + 1):
            part, visit, outcome = parts == number, int(rng.integers(2)), rng.random()
            if outcome < ABSENT:
                # A little more than the mask, whose edge is not the lesion's.
                soft = synthesis.blur(synthesis.dilate(part, 1).float()[None], sigma_voxels=(0.7, 0.7, 0.7))
                visits[visit] += soft * (normal - visits[visit])
                masks[visit] &= ~part
            elif outcome < ABSENT + GROWN:
                rim = synthesis.dilate(part, 1) & white & ~lesions
                bright = visits[visit][0, part].mean() - normal[0, part].mean()
                visits[visit] += bright * synthesis.blur(rim.float()[None], sigma_voxels=(0.5, 0.5, 0.5))
                masks[visit] |= rim
        if self.bank is not None:
            allowed = white & ~synthesis.dilate(lesions, 2)
            maps = self.bank.draw(rng)
            for which, painted in enumerate(_painted(maps, patient, points, allowed=allowed, rng=rng)):
                strength = rng.uniform(*PAINTED_CONTRAST["FLAIR"])
                visits[which] += strength * synthesis.blur(painted.float()[None], sigma_voxels=rng.uniform(0.4, 1.0, 3))
                masks[which] |= painted


def _painted(
    maps: Sequence[LesionMap], patient: Patient, points: Tensor, *, allowed: Tensor, rng: np.random.Generator
) -> list[Tensor]:
    """Lesions of other people in white matter, some at one visit alone: a mask for each visit."""
    found = lesions_at(points, maps, patient.mni_from_voxel) & allowed
    parts = torch.from_numpy(cc3d.connected_components(found.numpy(), connectivity=26).astype(np.int64))
    # Whether a visit has a lesion: both, baseline alone, follow-up alone; crops hold only a few.
    outcomes = rng.choice(3, size=int(parts.max()) + 1, p=(0.4, 0.3, 0.3))
    shown = torch.from_numpy(np.stack([outcomes != 2, outcomes != 1]))
    return [present[parts] & (parts > 0) for present in shown]


def _scanned(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Scan (1, X, Y, Z): blur, slices, noise, and the contrast and bias that matching leaves."""
    image = image * np.exp(rng.normal(0, 0.04)) + rng.normal(0, 0.03) * (image.square() - 1)
    image = image + synthesis.smooth_field(rng, image.shape[1:], channels=1, points=3, spread=rng.uniform(0, 0.1))
    if rng.random() < 0.5:
        image = synthesis.blur(image, sigma_voxels=rng.uniform(0, 0.7, 3))
    if rng.random() < 0.5:
        thickness = rng.uniform(1.5, 4)
        image = synthesis.thick_slices(image, axis=int(rng.choice(3, p=(0.15, 0.15, 0.7))), thickness=thickness)
    return synthesis.add_noise(rng, image, spread=rng.uniform(0.02, 0.2))


def _misplaced(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Moved by what registration leaves."""
    turn = synthesis.random_affine(rng, max_angle_deg=RESIDUAL_TURN_DEG, scale=(1, 1), mirror=False)
    centre = (np.array(image.shape[1:]) - 1) / 2 + rng.normal(0, RESIDUAL_SHIFT_VOXELS, 3)
    points = synthesis.sampling_points(rng, image.shape[1:], centre=centre, matrix=turn, elastic_voxels=0)
    # Beyond the crop its edge goes on: zeros there would look like a change.
    limits = torch.tensor([n - 1.0 for n in image.shape[1:]])
    return synthesis.sample_at(image, torch.minimum(points.clamp(min=0), limits))


def _normal_tissue(image: Tensor, normal: Tensor) -> Tensor:
    """The image without its lesions: the mean of the normal tissue around."""
    sigma = (3.0, 3.0, 3.0)
    weight = synthesis.blur(normal.float()[None], sigma_voxels=sigma)
    return synthesis.blur(image * normal, sigma_voxels=sigma) / weight.clamp(min=1e-3)


def _right_angles(rng: np.random.Generator) -> np.ndarray:
    """A random one of the 48 ways to flip and exchange axes: (3, 3) float."""
    return np.eye(3)[rng.permutation(3)] * rng.choice([-1.0, 1.0], 3)
