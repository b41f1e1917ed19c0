"""A whole BIDS dataset: what there is to do, the visits as one graph of tasks, and the tables over all."""
