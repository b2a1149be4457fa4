"""GPU kernels, each beside a reference in plain torch that the tests hold it to."""

LOG2_E = 1.4426950408889634  # kernels use exp2, as the hardware does
