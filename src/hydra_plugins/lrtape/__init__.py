"""lrtape's plugins for Hydra. Nothing heavy is imported here: Hydra loads this for every command and tab completion."""
