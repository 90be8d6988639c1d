"""Let Optuna choose the values of each next job."""
