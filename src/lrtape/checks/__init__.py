"""What may be wrong with the learning rates of a training. ``docs/findings.md`` has a section for each code."""
