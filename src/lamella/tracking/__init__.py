"""Mirror runs and sweeps to trackers: MLflow, Weights & Biases, and CSV files (config group `tracking`)."""
