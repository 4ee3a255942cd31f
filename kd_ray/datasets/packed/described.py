"""What a packed dataset is, in words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kd_ray.config import DataOptions
from kd_ray.config.data import PACKED
from kd_ray.datasets.hold import host_holding
from kd_ray.datasets.packed.plan import PackManifest, read_pack_manifest
from kd_ray.datasets.storage import given_root, needed_root
from kd_ray.units import bytes_shown


def packed_facts(folder: Path) -> tuple[str, dict[str, Any]]:
    """A title, and facts by name; see `read_pack_manifest` for what is refused."""
    manifest = read_pack_manifest(folder)
    plan = manifest.plan
    channels, height, width = plan.image_shape
    how = "encoded" if plan.encoded else "pixels"
    size = "" if plan.image_size is None else f", resized to {plan.image_size} when decoded"
    return f"packed {plan.dataset} {folder}", {
        "classes": ", ".join(plan.class_names),
        "rows": _rows(manifest),
        "pictures": f"{how}, {channels} x {height} x {width}{size}",
        "left out": f"{len(manifest.left_out)} that do not decode"
        + "".join(f"; {place}" for place in manifest.left_out[:3]),
        "row groups": f"{plan.group_rows:,} rows each",
        "files": f"{len(manifest.files)}, {bytes_shown(manifest.bytes)}",
        "decoded": bytes_shown(manifest.pixel_bytes),
        "sha256": manifest.sha256,
    }


def packed_lines(options: DataOptions) -> Iterator[str]:
    """The dataset of `[data]`, if it is packed, and how it will be held, with the arithmetic."""
    if options.name != PACKED:
        return
    manifest = read_pack_manifest(needed_root(given_root(options), options.name))
    yield f"packed {manifest.plan.dataset}: {_rows(manifest)} rows, {bytes_shown(manifest.bytes)}"
    holding = host_holding(options, manifest.pixel_bytes)
    yield f"its images are {holding}"


def _rows(manifest: PackManifest) -> str:
    return ", ".join(f"{split} {manifest.rows_of(split):,}" for split in manifest.plan.rows)
