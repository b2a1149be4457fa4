"""One command per table printed in the README: `python -m benchmarks`, or `python -m benchmarks NAME`."""
