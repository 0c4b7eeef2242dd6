"""What `python reproduce.py` can make: runs, measurements and claims, and a page about them."""
