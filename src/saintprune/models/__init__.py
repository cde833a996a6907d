"""Networks with their own transform: from the hub, from a local file, or from packaged weights."""
