"""Search over temperature, soft weight and bit-width with Ray Tune and Optuna."""

from tuning.carry_on import resume_trial, retrain_trial
from tuning.driver import open_sweep, sweep
from tuning.outcome import Sweep

__all__ = ["Sweep", "open_sweep", "resume_trial", "retrain_trial", "sweep"]
