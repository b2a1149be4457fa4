"""GPU kernels, each beside a reference in plain torch that the tests hold it to."""
