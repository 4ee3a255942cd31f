"""`[tracking]`: trackers of experiments, which hear of a run while it goes on."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from kd_ray.config.table import Name, Table


def _without_credentials(uri: str) -> str:
    try:
        named = "@" in urlsplit(uri).netloc
    except ValueError:
        named = "@" in uri
    if named:  # not repeated: it may be a password
        raise ValueError(
            "a URI must have no user name or password in it, as it is written into artefacts; set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment"
        )
    return uri


class TrackingOptions(Table):
    """`[tracking]`: who hears of metrics, recipe and figures; no artefact depends on it."""

    tensorboard: bool = False
    """Write event files below the run folder, in tracking/tensorboard."""

    mlflow: Annotated[str, Field(min_length=1), AfterValidator(_without_credentials)] | None = None
    """URI of an MLflow store, such as http://HOST:5000, sqlite:///mlflow.db or file:mlruns."""

    wandb: Name | None = None
    """Project of Weights & Biases; offline, in the run folder, where there are no credentials."""

    trackio: Name | None = None
    """Project of Trackio, which keeps it on this machine."""
