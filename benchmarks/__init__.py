"""Time and memory of layers, steps and streams; each file is a command."""
