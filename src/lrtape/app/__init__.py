"""The training app: Hydra composes it, lrtape records it. The only place that knows Hydra and OmegaConf."""
