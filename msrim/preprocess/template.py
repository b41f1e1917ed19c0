"""The MNI152 template that nilearn carries in its package; nothing is downloaded."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from msrim.image import Volume

FILE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"


def load_template() -> Volume:
    """T1-weighted MNI152 (2009a, symmetric), brain only, 1 mm.

    Returns
    -------
    Volume of float32
        From 0 outside the brain to 1; its world is MNI space.

    Notes
    -----
    Fonov et al., NeuroImage 54(1), 2011, doi:10.1016/j.neuroimage.2010.07.033.

    Examples
    --------
    >>> load_template().shape
    (197, 233, 189)
    """
    data, affine = _read()
    return Volume(data.copy(), affine.copy())


@cache
def _read() -> tuple[np.ndarray, np.ndarray]:
    """As :func:`nilearn.datasets.load_mni152_template` does it, whose import takes longer than all the rest."""
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise ImportError("nilearn, which has the MNI152 template, is not installed; install msrim again")
    image = nib.Nifti1Image.from_filename(Path(package.origin).parent / "datasets" / "data" / FILE)
    data = np.asarray(image.dataobj).astype(np.float32)
    return data / data.max(), np.asarray(image.affine, np.float64)


def load_template_brain_mask() -> Volume:
    """Brain of :func:`load_template`, ventricles and outer CSF included: Volume of bool."""
    template = load_template()
    return template.like(template.data > 0)
