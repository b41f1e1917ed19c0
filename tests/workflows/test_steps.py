"""What the graph's steps decide by themselves."""

from __future__ import annotations

import numpy as np

from msrim.image import Volume
from msrim.transform import apply_transform
from msrim.workflows.steps import working_grid


def test_the_working_grid_is_as_fine_as_the_brain_is_small():
    """A box of 60 mm that fills 75 mm of the template, in 3 mm slices and turned by 90 degrees."""
    affine = np.array([[0.0, 1.0, 0.0, 4.0], [-1.0, 0.0, 0.0, 70.0], [0.0, 0.0, 3.0, -20.0], [0.0, 0.0, 0.0, 1.0]])
    brain = Volume(np.ones((61, 61, 21), bool), affine)
    turn = np.array([[0.0, -1.25, 0.0, 9.0], [1.25, 0.0, 0.0, 2.0], [0.0, 0.0, 1.25, 5.0], [0.0, 0.0, 0.0, 1.0]])
    grid = working_grid(brain, mni_from_flair=turn)
    np.testing.assert_allclose(grid.spacing, 0.8)
    assert all(side % 16 == 0 for side in grid.shape)
    upright = (turn @ grid.affine)[:3, :3]
    np.testing.assert_allclose(upright, np.eye(3), atol=1e-9)
    corners = np.array([(0, 0, 0), (60, 60, 20), (60, 0, 20)])
    voxels = apply_transform(np.linalg.inv(grid.affine) @ affine, corners)
    assert (voxels >= 4).all() and (voxels <= np.array(grid.shape) - 5).all()
