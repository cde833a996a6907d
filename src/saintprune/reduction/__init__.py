"""Token reduction as pure tensor maths: a `LayerState` in, a `Reduction` out. Imports torch and nothing else."""

from saintprune.reduction.interface import LayerState, Reducer, Reduction

__all__ = ["LayerState", "Reducer", "Reduction"]
