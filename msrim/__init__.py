"""msrim: multiple-sclerosis lesions, new lesions and paramagnetic rims from MRI. Research use only."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from msrim.api import longitudinal, rim_classify, run, segment
    from msrim.errors import MsrimError

__version__ = "0.1.0"
__all__ = ["MsrimError", "__version__", "longitudinal", "rim_classify", "run", "segment"]


def __getattr__(name: str) -> Any:
    """Fetch what is asked for, so that ``import msrim`` alone costs nothing and the rooms may import the version."""
    if name not in __all__:
        raise AttributeError(f"module 'msrim' has no attribute {name!r}")
    return getattr(import_module("msrim.errors" if name == "MsrimError" else "msrim.api"), name)


def __dir__() -> list[str]:
    return __all__
