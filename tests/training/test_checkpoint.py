import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_dataset, tiny_meta, tiny_model

import kd_ray
from kd_ray.config import Train
from kd_ray.errors import CheckpointError
from kd_ray.runs.fit import check_same
from kd_ray.training.checkpoint import (
    META,
    OPTIMIZER,
    WEIGHTS,
    Meta,
    epochs_in,
    latest_checkpoint,
    load_weights,
    read_meta,
    restore,
    retain,
    save,
)
from kd_ray.training.optimizer import make_optimizer, set_knobs
from kd_ray.training.progress import EpochPart, Training

TABLE = {"name": "mlp", "hidden": [5], "dropout": [0.0, 0.0]}
OPTIMIZERS = [
    Train(optimizer="sgd"),
    Train(optimizer="sgd", momentum=0.0, nesterov=False),
    Train(optimizer="adam", weight_decay=0.1),
    Train(optimizer="adamw"),
]


def steps(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    """Some steps on images that depend on their number only."""
    for number in range(count):
        draw = torch.Generator().manual_seed(number)
        images = torch.randn(4, 1, 4, 4, generator=draw)
        set_knobs(optimizer, 0.1 / (number + 1), 0.5)
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


def saved(folder: Path, options: Train = OPTIMIZERS[0], epoch: int = 1) -> Path:
    training = new_training(options, seed=1, epoch=epoch)
    steps(training.model, training.optimizer, 3)
    return save(folder, tiny_meta(tiny_dataset(), TABLE), training)


def new_training(
    options: Train = OPTIMIZERS[0], seed: int = 0, epoch: int = 0, **fields: Any
) -> Training:
    model = tiny_model(seed)
    fields = {"history": history(epoch), **fields}
    return Training(model, make_optimizer(model, options), epoch, **fields)


def history(epochs: int) -> list[dict[str, Any]]:
    figures = {"train_loss": 1 / 3, "seconds": 0.5, "images_per_s": 9.5}
    return [{"epoch": number + 1, **figures} for number in range(epochs)]


def identical(ours: Any, theirs: Any) -> bool:
    """Equal to the last bit, through dicts and lists."""
    if isinstance(ours, torch.Tensor):
        return bool(torch.equal(ours, theirs)) and ours.dtype == theirs.dtype
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(identical(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(identical, ours, theirs))
    return bool(ours == theirs)


@pytest.mark.parametrize("options", OPTIMIZERS)
def test_restore_brings_weights_and_optimizer_back_bit_for_bit(tmp_path: Path, options: Train):
    training = new_training(options, seed=1, epoch=1)
    model, optimizer = training.model, training.optimizer
    steps(model, optimizer, 3)
    path = save(tmp_path, tiny_meta(tiny_dataset(), TABLE), training)

    restored = new_training(options, seed=2)
    again, fresh = restored.model, restored.optimizer
    assert restore(path, restored) == read_meta(path)
    assert identical(dict(again.state_dict()), dict(model.state_dict()))
    assert all(value.isfinite().all() for value in model.state_dict().values())
    # Both go on alike, which needs the moments and the step counts.
    steps(model, optimizer, 2)
    steps(again, fresh, 2)
    assert identical(dict(again.state_dict()), dict(model.state_dict()))
    ours, theirs = optimizer.state_dict()["state"], fresh.state_dict()["state"]
    kept = {n: {k: v for k, v in s.items() if v is not None} for n, s in ours.items()}
    assert identical({n: s for n, s in kept.items() if s}, theirs)


def test_save_of_the_same_training_writes_the_same_bytes(tmp_path: Path):
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b")
    for name in (WEIGHTS, OPTIMIZER, META):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_read_meta_returns_what_was_saved_and_the_hashes_of_the_files(tmp_path: Path):
    about = tiny_meta(
        tiny_dataset(),
        TABLE,
        kind="student",
        identity={"train.lr": 0.1, "data.classes": None},
        parents={"dataset": "d"},
    )
    training = new_training(
        epoch=3,
        best_epoch=2,
        best_accuracy=0.1 + 0.2,
    )
    found = read_meta(save(tmp_path, about, training))
    of_epoch = {
        "epoch": 3,
        "progress": {"best_epoch": 2, "best_accuracy": 0.1 + 0.2},
        "history": training.history,
    }
    assert found.model_copy(update={"files": {}, "versions": {}}) == about.model_copy(
        update=of_epoch
    )
    assert set(found.files) == {WEIGHTS, OPTIMIZER}
    assert "torch" in found.versions


@pytest.mark.parametrize("best", [{}, {"best_epoch": 2, "best_accuracy": 0.1 + 0.2}])
@pytest.mark.parametrize("part", [None, EpochPart(steps=3, sums=[0.1, 1 / 3], norms=[2.0])])
def test_restore_brings_everything_back_that_one_epoch_hands_to_the_next(
    tmp_path: Path, best: dict[str, Any], part: EpochPart | None
):
    training = new_training(epoch=3, part=part, **best)
    path = save(tmp_path, tiny_meta(tiny_dataset(), TABLE), training)
    assert latest_checkpoint(tmp_path) == path
    restored = new_training(epoch=7, best_epoch=7, best_accuracy=0.9)
    restore(path, restored)
    for name in ("epoch", "best_epoch", "best_accuracy", "history", "part"):
        assert getattr(restored, name) == getattr(training, name), name


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_in_half(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [flip_a_byte, cut_in_half, remove])
@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER])
def test_restore_refuses_a_damaged_file_by_name(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
):
    path = saved(tmp_path)
    damage(path / name)
    with pytest.raises(CheckpointError, match=name):
        restore(path, new_training())


def test_restore_refuses_weights_of_another_architecture(tmp_path: Path):
    path = saved(tmp_path)
    with pytest.raises(CheckpointError, match="do not fit model 'mlp'"):
        load_weights(path, read_meta(path), torch.nn.Linear(16, 3))


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\x00", b"[]", b"{}", b'{"kind": "teacher"', b'{"format_version": 2}'],
)
def test_read_meta_refuses_what_is_no_description(tmp_path: Path, content: bytes):
    path = saved(tmp_path)
    (path / META).write_bytes(content)
    with pytest.raises(CheckpointError, match="must be as it was written"):
        read_meta(path)


def test_read_meta_of_a_folder_that_is_no_checkpoint_says_what_one_is(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"a checkpoint is a folder with meta\.json"):
        read_meta(tmp_path)


def test_check_same_names_the_keys_that_differ_with_both_values():
    found = {"train.lr": 0.1, "train.epochs": 5, "seed": 0, "same": 1}
    wanted = {"train.lr": 0.2, "train.epochs": 5, "seed": 0, "same": 1}
    check_same(Path("here"), found, found)
    with pytest.raises(CheckpointError) as caught:
        check_same(Path("here"), found, wanted)
    assert "train.lr is 0.1 there and 0.2 here" in str(caught.value)
    assert "epochs" not in str(caught.value)


def test_check_same_sees_keys_that_only_one_side_has_and_names_three_at_most():
    wanted = {f"key{number}": number for number in range(5)}
    with pytest.raises(CheckpointError, match=r"key0 is unset there and 0 here.*key2.*, \.\.\.;"):
        check_same(Path("here"), {}, wanted)
    with pytest.raises(CheckpointError, match="key4 is 4 there and unset here"):
        check_same(Path("here"), wanted, {k: v for k, v in wanted.items() if k != "key4"})


def test_retain_keeps_the_epochs_it_is_told_and_removes_drafts(tmp_path: Path):
    for epoch in (1, 2, 3, 12):
        saved(tmp_path, epoch=epoch)
    (tmp_path / ".tmp-1-epoch-0004").mkdir()
    assert epochs_in(tmp_path) == [1, 2, 3, 12]
    retain(tmp_path, {2, 12})
    assert epochs_in(tmp_path) == [2, 12]
    assert {path.name for path in tmp_path.iterdir()} == {"epoch-0002", "epoch-0012"}


def test_save_writes_two_safetensors_and_one_json_and_nothing_pickled(tmp_path: Path):
    path = saved(tmp_path)
    assert {file.name for file in path.iterdir()} == {WEIGHTS, OPTIMIZER, META}
    Meta.model_validate(json.loads((path / META).read_text()))
    for name in (WEIGHTS, OPTIMIZER):
        content = (path / name).read_bytes()
        header = int.from_bytes(content[:8], "little")
        json.loads(content[8 : 8 + header])


def test_no_module_pickles_or_unpickles_more_than_tensors():
    package = Path(kd_ray.__file__).parent
    forbidden = {"torch.load", "torch.save", "pickle", "dill", "joblib"}
    for file in package.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        safe = {
            id(node.func)
            for node in nodes
            if isinstance(node, ast.Call)
            and any(ast.unparse(keyword) == "weights_only=True" for keyword in node.keywords)
        }
        for node in nodes:
            found = []
            if isinstance(node, ast.Attribute) and id(node) not in safe:
                found = [ast.unparse(node)]
            elif isinstance(node, ast.Import):
                found = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                module = node.module or ""
                names = [f"{module}.{alias.name}" for alias in node.names]
                errors_alone = all(name.endswith("Error") for name in names)
                found = names if errors_alone else [module.split(".")[0], *names]
            assert not forbidden & set(found), f"{file}: {found}"
