"""What tests of manifests share: awkward text, programs that stand for real ones, a schema."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from kd_ray.config import recipe_names

SHIPPED = recipe_names()
SECRET = "secret-xyz-4f1d"
SECRETS = {
    "RAY_AUTH_TOKEN": SECRET,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_ACCESS_KEY_ID": SECRET,
    "GOOGLE_APPLICATION_CREDENTIALS": SECRET,
}
CPU = ["resources.gpus_per_worker=0"]

HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"; touch pwned; "',
    "a b  c",
    "$HOME",
    "~",
    "*",
    "\\",
    "!!",
    "# no comment",
    "${IFS}",
    "@@{runs}",
    "@@",
    "%s %d",
    "- x: {y: [",
    "ä&|<>()",
    "END_OF_RECIPE",
]
hostile = st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=3).map("".join)

RECIPE = """\
# {comment}
# END_OF_RECIPE
name = "Hostile_name"
[data]
name = "digits"
[teacher]
model = {{ name = "mlp", hidden = [8] }}
[student]
model = {{ name = "mlp", hidden = [8] }}
[train]
seeds = [0]
[resources]
cpus_per_worker = 1
"""


def hostile_recipe(folder: Path, comment: str) -> Path:
    """A recipe whose comment, file name and folder's name are full of what shells read."""
    place = folder / "a 'b' $(touch pwned)"
    place.mkdir(exist_ok=True)
    path = place / "it's `x`.toml"
    path.write_text(RECIPE.format(comment=comment), encoding="utf-8")
    return path


def program(folder: Path, name: str, text: str) -> Path:
    """An executable of bash in `folder`, which is made if absent."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def recorder(folder: Path, record: Path) -> Path:
    """A `kd-ray` that writes down its arguments, each with a null byte behind it."""
    return program(folder, "kd-ray", f'printf "%s\\0" "$@" >"{record}"')


def recorded(record: Path) -> list[str]:
    return record.read_text(encoding="utf-8").split("\0")[:-1]


def bash(
    script: str, cwd: Path, bin_: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a script in `cwd`, with the programs of `bin_` before all others."""
    path = os.environ["PATH"] if bin_ is None else f"{bin_}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        env={**os.environ, "PATH": path, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def strict(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A Kubernetes schema as plain JSON Schema that refuses unknown keys.

    Kubernetes drops those without a word, so that a misspelt key would look fine.
    """
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    found = {key: value for key, value in schema.items() if not key.startswith("x-")}
    found.pop("format", None)
    if "properties" in found:
        found["properties"] = {key: strict(v) for key, v in found["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            found["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = strict(found[key])
    if found.pop("nullable", False) and "type" in found:
        found["type"] = [found["type"], "null"]
    return found
