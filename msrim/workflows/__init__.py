"""Which step follows which: the graphs that turn a patient's files into results."""
