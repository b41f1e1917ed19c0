"""From a lesion mask to lesions: separated, located and measured."""
