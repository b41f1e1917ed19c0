"""How good a result is: overlap, detection, surface distance, and how sure a mean of them can be."""
