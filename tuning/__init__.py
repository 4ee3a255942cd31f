"""Search over temperature, soft weight and bit-width with Ray Tune and Optuna (floor 8)."""
