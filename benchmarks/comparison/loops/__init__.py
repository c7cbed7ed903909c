"""One workload, trained by one loop after the other: what `peers.py` compares. `catalogue` lists the loops."""
