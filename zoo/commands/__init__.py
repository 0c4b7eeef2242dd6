"""The commands: what is typed is parsed, the work is called, and its outcome is printed."""
