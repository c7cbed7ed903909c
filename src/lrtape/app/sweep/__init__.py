"""Sweeps: many trainings that differ in their schedules, as the children of one MLflow run."""
