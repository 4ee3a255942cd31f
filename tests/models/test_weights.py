"""Laws of weights from elsewhere: the usual wrappings are taken off, what does not fit is told."""

import copy
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from kd_ray.config import ModelOptions
from kd_ray.errors import ConfigError
from kd_ray.models import NewModel, new_model
from kd_ray.models.weights import lay_on, read_weights, state_sha256, without_prefix

State = dict[str, Tensor]
SHAPE = (3, 8, 8)


def made(seed: int = 0, classes: int = 3, **keys: Any) -> NewModel:
    """A small network, from weights if `keys` name some."""
    model = ModelOptions.model_validate({"name": "convnet", "groups": [[4], [4]], **keys})
    return new_model(model, shape=SHAPE, classes=classes, seed=seed, mean=[0.5] * 3, std=[0.2] * 3)


def state(seed: int = 7, classes: int = 3) -> State:
    return made(seed, classes).network.state_dict()


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def looped(tensors: State) -> Any:
    table: dict[str, Any] = {"epoch": 3}
    return table | {"ema": tensors, "optimizer": {"state": {}}}


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": {"state_dict": tensors}, "args": {"lr": 0.1}},
        looped,
        prefixed("module."),
        prefixed("_orig_mod."),
        lambda tensors: {"model": prefixed("module._orig_mod.")(tensors)},
        lambda tensors: prefixed("model.network.")(tensors),
        lambda tensors: {name: tensor.double() for name, tensor in tensors.items()},
        lambda tensors: {k: v for k, v in tensors.items() if "num_batches" not in k},
    ],
)
def test_weights_wrapped_in_every_usual_way_are_the_same_network(tmp_path: Path, wrap: Any):
    torch.save(wrap(state()), tmp_path / "net.pth")
    found = made(weights=str(tmp_path / "net.pth"))
    assert same(found.network.state_dict(), state())
    assert found.table["weights"] == "file"


def test_safetensors_and_pickled_tensors_are_the_same_network(tmp_path: Path):
    save_file(state(), tmp_path / "net.safetensors")
    assert same(made(weights=str(tmp_path / "net.safetensors")).network.state_dict(), state())


@pytest.mark.parametrize("outer", ["", "module.", "model.", "model.module."])
def test_a_prefix_that_the_network_has_itself_is_never_taken_off(outer: str):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Linear(2, 2)
            self.module = nn.ModuleDict({"model": nn.Linear(2, 3)})

    for network in (Net(), nn.ModuleDict({"model": nn.Linear(2, 2)})):
        own = network.state_dict()
        assert same(without_prefix(prefixed(outer)(own), own), own)


@pytest.mark.parametrize("names", [[], ["module."], ["module.module."]])
def test_names_that_are_nothing_but_prefixes_end(names: list[str]):
    assert len(without_prefix({name: torch.ones(1) for name in names}, ["weight"])) == len(names)


def test_what_does_not_fit_is_listed_and_nothing_is_half_loaded():
    network = made(1).network
    before = copy.deepcopy(network.state_dict())
    odd = state()
    del odd["head.bias"]
    odd |= {"extra.weight": torch.ones(1), "block1_1.conv.weight": torch.ones(4, 3, 5, 5)}
    with pytest.raises(ConfigError) as caught:
        lay_on(network, odd, "model 'convnet'", dict)
    told = str(caught.value)
    assert "it lacks head.bias, it has besides extra.weight" in told
    assert "of another shape are block1_1.conv.weight [4, 3, 5, 5] instead of [4, 3, 3, 3]" in told
    assert same(network.state_dict(), before)


def test_many_that_do_not_fit_are_counted():
    with pytest.raises(ConfigError, match=r"it has besides a0, a1, a2 and 5 more"):
        lay_on(nn.Linear(1, 1), {f"a{n}": torch.ones(1) for n in range(8)}, "here", dict)


def test_another_number_of_classes_is_refused_with_the_key_that_means_it(tmp_path: Path):
    torch.save(state(classes=5), tmp_path / "net.pt")
    with pytest.raises(ConfigError, match=r'head\.weight \[5, 4\].*set head = "new"'):
        made(weights=str(tmp_path / "net.pt"))


def test_a_new_head_keeps_exactly_the_head(tmp_path: Path):
    given, fresh = state(classes=5), made(seed=3).network.state_dict()
    torch.save(given, tmp_path / "net.pt")
    found = made(seed=3, weights=str(tmp_path / "net.pt"), head="new").network.state_dict()
    for name, tensor in found.items():
        assert torch.equal(tensor, (fresh if name.startswith("head.") else given)[name]), name


def test_a_new_head_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"leaves out a part of weights, but the model has none"):
        ModelOptions.model_validate({"name": "convnet", "head": "new"})


def test_of_tied_weights_a_file_may_have_one_name_or_both():
    def tied() -> nn.Module:
        network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        network[1].weight = network[0].weight
        return network

    weight = torch.arange(4.0).view(2, 2)
    for names in (["0.weight"], ["1.weight"], ["0.weight", "1.weight"]):
        network = tied()
        lay_on(network, dict.fromkeys(names, weight), "here", dict)
        assert torch.equal(network[0].weight, weight)
        assert network[0].weight is network[1].weight


class Evil:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("plain", [True, False])
def test_code_in_a_pickle_is_refused_and_never_runs(tmp_path: Path, plain: bool):
    mark, file = tmp_path / "ran", tmp_path / "net.pth"
    if plain:
        file.write_bytes(pickle.dumps({"state_dict": Evil(mark)}))
    else:
        torch.save({"state_dict": {**state(), "more": Evil(mark)}}, file)
    with pytest.raises(ConfigError, match=r"weights: .*net\.pth"):
        read_weights(str(file))
    assert not mark.exists()


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("net.pth", saved({"a": torch.ones(999)})[:-700], "cannot be read"),
        ("net.pth", b"", "cannot be read"),
        ("net.pth", b"\x00" * 64, "weights: "),
        ("net.safetensors", b"\xff" * 64, "cannot be read"),
        ("net.safetensors", b"", "cannot be read"),
        ("net.pth", saved([1, 2]), "must hold a state_dict"),
        ("net.pth", saved({}), "must hold a state_dict"),
        ("net.pth", saved({"a": 1}), "'a' is int"),
        ("net.pth", saved({1: torch.ones(1)}), "1 is Tensor"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_in_a_sentence(
    tmp_path: Path, name: str, content: bytes, told: str
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=told) as caught:
        read_weights(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_nothing_a_folder_and_a_named_pipe_are_no_weights(tmp_path: Path):
    (tmp_path / "folder.pth").mkdir()
    os.mkfifo(tmp_path / "pipe.pth")
    for name, told in (("no.pth", "no such"), ("folder.pth", "no file"), ("pipe.pth", "no file")):
        with pytest.raises(ConfigError, match=told):
            read_weights(str(tmp_path / name))


def test_state_sha256_is_of_names_types_shapes_and_values_in_any_order_of_memory():
    plain = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}
    digest = state_sha256(plain)
    turned = {"b": plain["b"], "a": plain["a"].t().contiguous().t()}
    assert state_sha256(turned) == digest
    others = [{"c": plain["a"]}, {"a": plain["a"].half()}, {"a": plain["a"].view(3, 2)}, {}]
    assert len({state_sha256(plain | other) for other in others}) == len(others)
