"""nuclr: who a neuron is, from how the population around it behaves."""

__version__ = "0.1.0"
