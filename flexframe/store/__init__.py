"""Model files: finding, fetching, reading, writing and loading them."""
