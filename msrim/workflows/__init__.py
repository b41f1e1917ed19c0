"""Which step follows which: the graphs that turn a patient's files into results."""

import os

# Nipype asks a server about its version, at import and whenever an interface is made, unless told not to.
os.environ["NIPYPE_NO_ET"] = "1"
