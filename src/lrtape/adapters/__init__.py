"""Callbacks for frameworks that own the training loop; the only place that imports one of them."""
