"""`kd-ray pack`: the pictures of a recipe as Parquet shards that stream."""

import time
from typing import Annotated

import typer

from kd_ray.cli.options import RecipeArgument, SetOption, answered


@answered
def pack(
    recipe: RecipeArgument,
    to: Annotated[str, typer.Option(metavar="PLACE", help="Folder of the shards, or its URL.")],
    leave_out: Annotated[
        bool,
        typer.Option("--leave-out", help="Leave out, and count, pictures that do not decode."),
    ] = False,
    overrides: SetOption = None,
) -> None:
    """Write the pictures of a recipe into Parquet shards that stream, in an order drawn once."""
    from kd_ray.datasets.packed.plan import read_pack_manifest
    from kd_ray.datasets.packed.write import pack as packing
    from kd_ray.files import to_path
    from kd_ray.pipeline import open_recipe
    from kd_ray.units import bytes_shown

    started, written = time.monotonic(), 0
    for shard in packing(open_recipe(recipe, overrides or []).data, to, leave_out=leave_out):
        written += 0 if shard.existed else shard.file.bytes
        kept = "  (existed)" if shard.existed else ""
        size = bytes_shown(shard.file.bytes)
        typer.echo(
            f"{shard.done}/{shard.all}  {shard.file.name}  {shard.file.rows:,} rows  {size}{kept}"
        )
    manifest, seconds = read_pack_manifest(to_path(to)), time.monotonic() - started
    if written:
        rate = f"{written / seconds / 1e6:,.1f} MB/s"
        typer.echo(f"{bytes_shown(written)} in {seconds:.1f} s, {rate}")
    if manifest.left_out:
        typer.echo(f"left out as they do not decode: {len(manifest.left_out):,} pictures, such as")
        typer.echo(f"  {manifest.left_out[0]}")
    typer.echo(f'A recipe reads it with data.name = "packed" and data.root = "{to}"')
