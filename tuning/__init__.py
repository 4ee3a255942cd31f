"""Search over temperature, soft weight and bit-width with Ray Tune and Optuna.

The names below are the Python API; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.carry_on import resume_trial, retrain_trial
    from tuning.driver import open_sweep, sweep
    from tuning.outcome import Sweep

__all__ = ["Sweep", "open_sweep", "resume_trial", "retrain_trial", "sweep"]

_HOMES = {
    "Sweep": "tuning.outcome",
    "open_sweep": "tuning.driver",
    "resume_trial": "tuning.carry_on",
    "retrain_trial": "tuning.carry_on",
    "sweep": "tuning.driver",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tuning' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
