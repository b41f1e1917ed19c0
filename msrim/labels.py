"""The nine head labels and three tissue classes: their numbers stand here and nowhere else."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class HeadLabel(IntEnum):
    """Classes of the head network; the values are those of ``*_desc-head_dseg.nii.gz``."""

    BACKGROUND = 0
    OUTER_CSF = 1
    VENTRICLES = 2
    CORTEX = 3
    DEEP_GREY = 4
    CEREBRAL_WHITE = 5
    CEREBELLAR_GREY = 6
    CEREBELLAR_WHITE = 7
    BRAINSTEM = 8


class Tissue(IntEnum):
    """Tissue classes; the values are those of ``*_dseg.nii.gz``."""

    NONE = 0
    CSF = 1
    GREY = 2
    WHITE = 3


# Names of the tissue classes in *_dseg.tsv.
TISSUE_NAMES = {Tissue.CSF: "CSF", Tissue.GREY: "GM", Tissue.WHITE: "WM"}
CSF = (HeadLabel.OUTER_CSF, HeadLabel.VENTRICLES)
CEREBRUM = (HeadLabel.CORTEX, HeadLabel.DEEP_GREY, HeadLabel.CEREBRAL_WHITE)
INFRATENTORIAL = (HeadLabel.CEREBELLAR_GREY, HeadLabel.CEREBELLAR_WHITE, HeadLabel.BRAINSTEM)
GREY_MATTER = (HeadLabel.CORTEX, HeadLabel.DEEP_GREY, HeadLabel.CEREBELLAR_GREY)
# The brainstem is mostly white.
WHITE_MATTER = (HeadLabel.CEREBRAL_WHITE, HeadLabel.CEREBELLAR_WHITE, HeadLabel.BRAINSTEM)
# Tissue class by head label: (9,) uint8.
TISSUE_OF_LABEL = np.zeros(len(HeadLabel), np.uint8)
TISSUE_OF_LABEL[list(CSF)] = Tissue.CSF
TISSUE_OF_LABEL[list(GREY_MATTER)] = Tissue.GREY
TISSUE_OF_LABEL[list(WHITE_MATTER)] = Tissue.WHITE
