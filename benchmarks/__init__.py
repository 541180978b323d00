"""Benchmarks: speed_<part>.py and accuracy_<question>.py, run by `python -m benchmarks`."""
