"""What was reached: accuracy and speed, printed as tables. Run as ``python -m benchmarks.<name>``."""
