"""The one tree of errors that msrim raises on purpose.

The command line turns any of them into a single line on stderr and exit code 2; whatever else escapes is a bug and
shows its traceback with exit code 1. A message names the file, the fault and the remedy.
"""


class MsrimError(Exception):
    """Root of the tree."""


class InputError(MsrimError):
    """A file or a setting that the user gave cannot be used."""


class OutputError(MsrimError):
    """A result cannot be written."""


class ModelError(MsrimError):
    """A network is unknown, or its weights or card are missing or damaged."""


class BackendError(MsrimError):
    """An external program (FSL) or a device is missing or failed."""


class Remark(UserWarning):
    """Something that a reader of the results must know.

    Raised as a warning, ``warnings.warn("lesion 3: reaches the edge of the image", Remark)``, from any room. The step
    that runs shows it to the user once, and run.json keeps it, also when a later run finds the step done.
    """


class Fallback(Remark):
    """Something was replaced by something else or left out: a backend, a device, a contrast."""


class Doubt(Remark):
    """The results cannot be trusted without visual inspection: shown on the first line of a run's result."""
