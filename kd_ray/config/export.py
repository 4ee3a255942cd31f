"""`[export]`: files of finished models for machines without torch."""

from typing import Annotated, Literal

from pydantic import Field

from kd_ray.config.table import Count, EachOnce, Table

ExportFormat = Literal["packed", "c", "onnx", "pt2"]


class ExportOptions(Table):
    """`[export]`: files of finished models for machines without torch, made by `kd-ray export`."""

    formats: Annotated[list[ExportFormat], Field(min_length=1), EachOnce] = Field(
        default=["packed"]
    )
    """Which files: packed, c, onnx, pt2."""

    rows: Count | None = None
    """Test images that an export is compared with torch on; all of them where it is left out."""

    of: Annotated[list[str], Field(min_length=1), EachOnce] | None = None
    """Folders below the run's, of models; its own students where it is left out."""
