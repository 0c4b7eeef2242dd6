"""What is inside the shipped models."""
