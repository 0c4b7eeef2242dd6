"""How well small deep models predict the next byte."""
