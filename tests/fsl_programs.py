"""Stand-ins for the programs of FSL: shell scripts that take its arguments, write its files and fail in its ways."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from msrim.image import Volume

BET = 'cp "$1" "$2" && cp "$1" "${2%.nii.gz}_mask.nii.gz"'
# Keeps what it was given; its matrix is the file `answer` beside bin/, or `answer12` for 12 degrees of freedom.
FLIRT = """
cp moving.nii.gz fixed.nii.gz "$FSLDIR/../asked"
while [ $# -gt 0 ]; do
  case "$1" in
    -omat) matrix="$2" ;;
    -out) cp fixed.nii.gz "$2" ;;
    -dof) special="$FSLDIR/answer$2" ;;
  esac
  shift
done
if [ -f "$special" ]; then cp "$special" "$matrix"; else cp "$FSLDIR/answer" "$matrix"; fi
"""
# Of every program, its arguments as they are: FSLDIR itself may be a folder that nobody can write to.
RECORD = 'mkdir -p "$FSLDIR/../asked" && echo "$@" > "$FSLDIR/../asked/${0##*/}"'
FAST = "for f in seg pve_0 pve_1 pve_2 pveseg; do cp brain.nii.gz tissue_$f.nii.gz; done"


def install(folder: Path, *, bet: str = BET, flirt: str = FLIRT, fast: str = FAST) -> Path:
    """Make an FSLDIR whose FLIRT finds that nothing is to be moved."""
    for name, script in (("bet", bet), ("flirt", flirt), ("fast", fast)):
        program = folder / "bin" / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\n{RECORD}\n{script}\n")
        program.chmod(0o755)
    (folder / "etc").mkdir(exist_ok=True)
    (folder / "etc" / "fslversion").write_text("6.0.7.4\n")
    np.savetxt(folder / "answer", np.eye(4))
    return folder


def answer(
    home: Path,
    fixed_from_moving: np.ndarray,
    *,
    moving: Volume,
    fixed: Volume,
    degrees_of_freedom: int | None = None,
) -> None:
    """Let the stand-in for FLIRT find this transform, RAS mm; where so many are asked for, or else always."""
    from fsl.data.image import Nifti
    from fsl.transform.flirt import toFlirt
    from nibabel import Nifti1Image

    images = [Nifti(Nifti1Image(np.empty(each.shape, np.uint8), each.affine).header) for each in (moving, fixed)]
    name = f"answer{degrees_of_freedom or ''}"
    np.savetxt(home / name, toFlirt(fixed_from_moving, *images, "world", "world"))


def asked(home: Path) -> Path:
    """Folder of what the programs were given: their arguments by program, and FLIRT's images."""
    return home.parent / "asked"


def arguments_of(home: Path, program: str) -> list[str]:
    """What a program was asked last."""
    return (asked(home) / program).read_text(encoding="utf-8").split()
