"""Make the packaged SynthStrip weights from the published ones, once: a command for maintainers.

`python -m msrim.models.convert_synthstrip synthstrip-1.pt synthstrip.safetensors`, where the first file is
``deepsurfer/resource/models/synthstrip-1.pt`` of the source distribution ``deepsurfer`` 0.1.1a5 on PyPI.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from msrim.errors import InputError
from msrim.files import sha256_of, written_atomically
from msrim.models.networks.synthstrip import SynthStrip

# Of synthstrip-1.pt in deepsurfer 0.1.1a5.
PUBLISHED_SHA256 = "ae8034c791de0931e120bdb7fe1dba5c5222d0573ba059f836aca8e63541e3b9"
LAYER = re.compile(r"unet\.(encoder|decoder)\.(\d+)\.(\d+)\.conv\.(weight|bias)")


def convert(published: Path, out: Path) -> Path:
    """Write the published weights in half precision, as safetensors, under the names of :class:`SynthStrip`.

    Raises
    ------
    InputError
        The file is not the published one.
    """
    if not published.is_file() or sha256_of(published) != PUBLISHED_SHA256:
        raise InputError(f"{published}: not synthstrip-1.pt of deepsurfer 0.1.1a5; its sha256 is another")
    saved = torch.load(published, weights_only=True, map_location="cpu")["model_state_dict"]
    network = SynthStrip()
    network.load_state_dict({_name(key): value for key, value in saved.items()})
    with written_atomically(out) as temporary:
        save_file(network.half().state_dict(), temporary)
    return out


def _name(published: str) -> str:
    """Name of a layer here, from that in the published file.

    Examples
    --------
    >>> _name("unet.encoder.3.1.conv.bias"), _name("unet.decoder.5.2.conv.weight")
    ('encoder.3.2.bias', 'distance.weight')
    """
    layer = LAYER.fullmatch(published)
    if layer is None:
        raise ValueError(f"{published}: not a layer of SynthStrip")
    side, level, index, kind = layer.groups()
    # An activation stands behind every convolution; the decoder's last one gives the distance.
    return f"distance.{kind}" if index == "2" else f"{side}.{level}.{2 * int(index)}.{kind}"


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
