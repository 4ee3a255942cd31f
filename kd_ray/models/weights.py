"""Weights that come from elsewhere: read without running anything, and laid on a network whole."""

import hashlib
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialized
from torch import Tensor, nn

from kd_ray.config import InputOptions
from kd_ray.errors import ConfigError, shown
from kd_ray.files import committed_file, local_copy, reason_of, sha256_of, to_path

WRAPPINGS = ("state_dict", "model_state_dict", "model", "module", "ema")
"""Keys under which programs keep the weights in a larger table."""
PREFIXES = ("module.", "_orig_mod.", "network.", "model.")
"""What data parallelism, compiling and wrapping put before the names of all weights."""
SHOWN = 3


@dataclass(frozen=True)
class Pretrained:
    """Weights, and what is known of them.

    Attributes:
        state: name -> tensor.
        sha256: of the file, or of names and values where there is none.
        outputs: of the network that has them; None where only the weights themselves tell.
        input: what it was fed.
    """

    state: Mapping[str, Tensor]
    sha256: str
    outputs: int | None = None
    input: InputOptions = field(default_factory=InputOptions)


def read_weights(file: str) -> Pretrained:
    """The weights in a .safetensors, .pt, .pth or .bin file, without the usual wrappings.

    Raises:
        ConfigError: there is no such file, it is of another kind or damaged, or holds code.
    """
    path = to_path(file)
    try:
        if not path.is_file():
            raise FileNotFoundError("it is no file" if path.exists() else "there is no such file")
        with local_copy(path) as copy:
            sha256 = sha256_of(copy)
            if path.suffix == ".safetensors":
                return Pretrained(load_file(copy), sha256)
            # Nothing but tensors and plain values is built; whatever else a pickle asks for is not.
            with warnings.catch_warnings(action="ignore"):  # of older formats, which are read
                content = torch.load(copy, map_location="cpu", weights_only=True, mmap=False)
    except UnpicklingError as error:
        raise ConfigError(
            f"weights: {file} holds more than tensors{_asked_for(error)}, which could be code and "
            "is never run; save its state_dict as .safetensors"
        ) from None
    except (OSError, RuntimeError, SafetensorError, ValueError, EOFError, KeyError) as error:
        raise ConfigError(
            f"weights: {file} must be a .safetensors, .pt or .pth file of weights, but cannot be "
            f"read ({_first_line(error)}); correct the path, or save it again"
        ) from error
    return Pretrained(_unwrapped(content, file), sha256)


def write_weights(file: Path, state: Mapping[str, Tensor]) -> None:
    """Commits weights as .safetensors; those that share memory are stored each by itself.

    Raises:
        StorageError: it cannot be written.
    """
    plain = {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    with committed_file(file) as draft:
        draft.write_bytes(serialized(plain))


def _first_line(error: Exception) -> str:
    line = (reason_of(error) or type(error).__name__).splitlines()[0]
    return line.partition(". ")[0][:160].rstrip(" .:")


def _asked_for(error: Exception) -> str:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    return f" (it asks for {asked[1]})" if asked else ""


def _unwrapped(content: Any, file: str) -> dict[str, Tensor]:
    for _ in WRAPPINGS:  # a table may be in itself
        inner = [content.get(key) for key in WRAPPINGS] if isinstance(content, dict) else []
        content = next((each for each in inner if isinstance(each, dict)), content)
    if not isinstance(content, dict) or not content:
        raise ConfigError(
            f"weights: {file} must hold a state_dict, names and tensors, but holds "
            f"{type(content).__name__}; save model.state_dict()"
        )
    for name, value in content.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ConfigError(
                f"weights: {file} must hold names and tensors alone, but {shown(name)} is "
                f"{type(value).__name__}; save model.state_dict()"
            )
    return content


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex sha256 of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def head_of(build: Callable[[int], nn.Module], classes: int) -> dict[str, int]:
    """The weights whose shape depends on the number of classes: name -> dimension that is it."""
    some, more = (build(number).state_dict() for number in (classes, classes + 1))
    head = {}
    for name, tensor in some.items():
        pairs = zip(tensor.shape, more[name].shape, strict=True)
        if changed := [place for place, (a, b) in enumerate(pairs) if a != b]:
            head[name] = changed[0]
    return head


def outputs_of(state: Mapping[str, Tensor], head: Mapping[str, int]) -> int | None:
    """The number of outputs of the network that weights are of, as their head tells it."""
    for name, place in head.items():
        if name in state and state[name].ndim > place:
            return state[name].shape[place]
    return None


def without_prefix(state: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights without what stands before all of their names, as far as the network has them so.

    A network may have a `model.` of its own: as much is taken off as makes most names its `own`.
    """
    ways = [dict(state)]
    while ways[-1]:
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in ways[-1])), None)
        if prefix is None:
            break
        ways.append({name.removeprefix(prefix): each for name, each in ways[-1].items()})
    return max(ways, key=lambda way: len(way.keys() & set(own)))  # the first of equal ones


def lay_on(
    network: nn.Module,
    state: Mapping[str, Tensor],
    where: str,
    head: Callable[[], Collection[str]],
    new_head: bool = False,
) -> None:
    """Loads weights into a network, in place.

    Args:
        network: changed.
        state: name -> tensor.
        where: the model, for messages.
        head: gives the names of the weights whose shape depends on the number of classes.
        new_head: whether these keep the values they have.

    Raises:
        ConfigError: some are missing, too many or of another shape; the first of each are named.
    """
    own = network.state_dict()
    given = without_prefix(state, own)
    new = head() if new_head else ()
    kept = {name: tensor for name, tensor in given.items() if name not in new}
    there = {tensor.data_ptr() for name, tensor in own.items() if name in kept}
    # Of tied weights some files have but one; older ones lack the counters of batch norm, which
    # nothing depends on.
    missing = [
        name
        for name, tensor in own.items()
        if not (name in kept or name in new or name.endswith("num_batches_tracked"))
        and not (tensor.numel() and tensor.data_ptr() in there)
    ]
    unknown = [name for name in kept if name not in own]
    shapes = [
        f"{name} {list(kept[name].shape)} instead of {list(own[name].shape)}"
        for name in own
        if name in kept and kept[name].shape != own[name].shape
    ]
    parts = {"it lacks": missing, "it has besides": unknown, "of another shape are": shapes}
    told = [f"{what} {_listed(names)}" for what, names in parts.items() if names]
    if told:
        raise ConfigError(
            f"{where}: the weights do not fit: {', '.join(told)}; name the model that they are of"
            f"{_advice(kept, own, head)}"
        )
    network.load_state_dict(own | kept)


def _advice(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], head: Callable[[], Collection[str]]
) -> str:
    odd = [name for name in own if name in given and given[name].shape != own[name].shape]
    if odd and set(odd) <= set(head()):
        return ', or set head = "new" where another number of classes is meant'
    if odd and given[odd[0]].ndim == 4 and given[odd[0]].shape[1] > own[odd[0]].shape[1] == 1:
        return ", or give input.mean and input.std three numbers where the images are grey"
    return ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
