"""msrim: multiple-sclerosis lesions, new lesions and paramagnetic rims from MRI. Research use only."""

__version__ = "0.1.0"
