"""saintprune: training-free token reduction for Vision Transformers."""

__version__ = "0.1.0"
