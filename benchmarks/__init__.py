"""What was reached, printed as tables: ``python -m benchmarks.<name>``."""
