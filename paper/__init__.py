"""The figures of arXiv 2410.11687: which runs they need and what is measured of them."""
