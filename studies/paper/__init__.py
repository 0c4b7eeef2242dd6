"""What is trained and measured of the figures of arXiv 2410.11687."""
