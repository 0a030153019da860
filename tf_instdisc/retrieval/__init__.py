"""Search in a bank: neighbors, kNN, near-duplicates, comparisons."""
