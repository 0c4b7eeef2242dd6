"""Where the paper says something. Its three versions have different abstracts."""

V1, V2, V3 = "abstract of version 1", "abstract of version 2", "abstract of version 3"
FIGURE = "what a figure of it shows"
CODE = "its public code"
