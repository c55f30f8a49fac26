"""Trained models at work: images in, token files, images out. The commands `encode`, `decode` and `reconstruct`."""
