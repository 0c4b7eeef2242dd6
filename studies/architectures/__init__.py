"""Nine architectures by one protocol: rates on a grid, several seeds, converged or not."""
