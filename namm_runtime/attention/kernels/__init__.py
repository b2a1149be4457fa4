"""GPU kernels, each with a plain-torch reference used by the tests."""

LOG2_E = 1.4426950408889634  # kernels use exp2, as the hardware does
