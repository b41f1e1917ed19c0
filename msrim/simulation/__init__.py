"""Made patients with known truth: a phantom subject as a scanner would give it."""
