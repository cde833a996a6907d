"""Figures of an analysis, as PNG and SVG, and the page that holds them."""
