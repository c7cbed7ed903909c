"""The only place that knows MLflow."""
