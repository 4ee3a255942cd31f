"""YAML that every reader takes alike: strings are quoted unless they can be nothing else."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

LONGEST_LINE = 10_000  # a command that is folded is hard to read, and to change
PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]+")


class Dumper(yaml.SafeDumper):
    """Texts as blocks. Readers of YAML 1.1 and 1.2 disagree on bare `y`, `1e3` and the like."""

    def ignore_aliases(self, data: Any) -> bool:
        """Values are written out wherever they stand: manifests are read and changed by people."""
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "" if PLAIN.fullmatch(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _without_nothing(dumper: yaml.SafeDumper, table: dict[str, Any]) -> yaml.MappingNode:
    return dumper.represent_dict({key: v for key, v in table.items() if v is not None}.items())


Dumper.add_representer(str, _represent)
Dumper.add_representer(dict, _without_nothing)


def manifest(header: Sequence[str], *documents: Any) -> str:
    """Documents below a comment of `header` lines, without the keys whose value is None."""
    body = yaml.dump_all(
        documents, Dumper=Dumper, sort_keys=False, width=LONGEST_LINE, allow_unicode=True
    )
    return "".join(f"# {line}\n" for line in header) + body
