"""Oracles. They import nothing of fimsym, so that they can judge all of it."""
