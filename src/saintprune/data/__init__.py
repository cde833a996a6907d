"""Lightning data modules of one shape; every batch is (images [B, 3, H, W] float, labels [B] long)."""
