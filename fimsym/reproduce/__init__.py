"""The figures of Soen & Sun (2024), from the numbers to the pictures."""
