"""From a lesion mask to lesions: told apart, placed and measured."""
