"""Options in, one call into the workflows, the path of the result out."""
