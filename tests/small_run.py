"""Overrides that whole runs of the tests share."""

# a network that takes no time, with random weights
NETWORK = [
    "model.net.architecture=vit_tiny_patch16_224", "model.net.weights=hub", "model.net.img_size=64",
    "model.pretrained=false", "model.head=none",
]  # fmt: skip
