"""What one layer of fast weights recalls, beside the algorithm that its rule is."""
