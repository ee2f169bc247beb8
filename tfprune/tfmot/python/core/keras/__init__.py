"""`tensorflow_model_optimization.python.core.keras`."""
