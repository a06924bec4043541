"""Data sets that are read from files: no network, no download."""
