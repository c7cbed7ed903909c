"""What `peers.py` measures of a loop, and the page that it makes of it."""
