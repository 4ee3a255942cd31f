"""What is printed of specialists: their classes, and their worth by coverage."""

from rich.table import Table

from kd_ray.cli.tables import plain_table
from kd_ray.report.specialists import coverage_rows, result_of
from kd_ray.report.summary import Summary
from kd_ray.result import JOINT_SET


def coverage_table(summary: Summary) -> Table | None:
    """Right first choices by the number of specialists with the true class, or None."""
    result = result_of(summary.results, JOINT_SET)
    if result is None:
        return None
    return plain_table(f"{summary.folder.name}: specialists, test split", coverage_rows(result))
