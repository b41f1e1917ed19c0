"""Training: losses, synthetic samples and the loop."""
