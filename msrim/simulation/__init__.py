"""Made patients with known truth: a phantom subject like a scanner's."""
