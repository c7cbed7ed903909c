"""Hydra configs of lrtape: also usable from other Hydra apps, where lrtape is installed."""
