"""Evolve a scorer for a model: gradient-free search for parameters that keep what will be asked for."""
