"""Simulated populations: tiny ones for tests, realistic animals for demos, both also as calcium imaging."""

from __future__ import annotations

from nuclr_cli.testing.animals import SimulatedAnimal, SimulationConfig, simulate_animal, simulate_calcium
from nuclr_cli.testing.saving import save_animals
from nuclr_cli.testing.tiny import tiny_calcium, tiny_population

__all__ = [
    "SimulatedAnimal",
    "SimulationConfig",
    "save_animals",
    "simulate_animal",
    "simulate_calcium",
    "tiny_calcium",
    "tiny_population",
]
