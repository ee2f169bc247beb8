"""`tensorflow_model_optimization.python.core.sparsity.keras`: the modules that public code imports."""
