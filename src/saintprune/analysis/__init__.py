"""How tokens change from layer to layer: collect it, find stages in it, draw it, and prune one layer at a time."""
