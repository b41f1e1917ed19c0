"""What msrim takes of Nipype, without its question to a server whether there is a newer version.

The environment of the process stays as it was.
"""

from __future__ import annotations

import os

SWITCH = "NIPYPE_NO_ET"

# An interactive Python asks at import.
_before = os.environ.get(SWITCH)
os.environ[SWITCH] = "1"
try:
    import nipype
    from nipype.interfaces.base import BaseInterface, BaseInterfaceInputSpec, DynamicTraitedSpec
    from nipype.interfaces.io import add_traits
    from nipype.interfaces.utility import Merge
    from nipype.pipeline import plugins
    from nipype.pipeline.plugins.multiproc import MultiProcPlugin
finally:
    if _before is None:
        del os.environ[SWITCH]
    else:
        os.environ[SWITCH] = _before

# Interfaces ask when they are made.
nipype.config.set("execution", "check_version", "false")

__all__ = [
    "BaseInterface",
    "BaseInterfaceInputSpec",
    "DynamicTraitedSpec",
    "Merge",
    "MultiProcPlugin",
    "add_traits",
    "nipype",
    "plugins",
]
