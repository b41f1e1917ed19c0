"""The MNI152 template that nilearn carries in its package; nothing is downloaded."""

from __future__ import annotations

import warnings

import numpy as np

from msrim.image import Volume


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
    with warnings.catch_warnings():
        # nilearn greets its first import with notices that mean nothing to a reader of lesions.
        warnings.simplefilter("ignore")
        from nilearn.datasets import load_mni152_template

        image = load_mni152_template(resolution=1)
    return Volume(np.asarray(image.dataobj, dtype=np.float32), image.affine.astype(np.float64))


def load_template_brain_mask() -> Volume:
    """Brain of :func:`load_template`, ventricles and outer CSF included: Volume of bool."""
    template = load_template()
    return template.like(template.data > 0)
