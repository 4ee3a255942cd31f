from pathlib import Path
from typing import Any

import pytest
import tomli_w
from tiny import tiny_table

from kd_ray.config import Recipe, load_recipe, recipe_names
from kd_ray.config.read import apply_override, parse_recipe
from kd_ray.errors import ConfigError


def parsed(*overrides: str) -> Recipe:
    return parse_recipe(tiny_table(*overrides), "here")


def problem(*overrides: str) -> str:
    """The message about a recipe with these overrides."""
    with pytest.raises(ConfigError) as caught:
        parsed(*overrides)
    return str(caught.value)


def round_trip(recipe: Recipe, folder: Path) -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)))
    return load_recipe(path)


@pytest.mark.parametrize("name", recipe_names())
def test_a_shipped_recipe_written_out_in_full_reads_back_the_same(name: str, tmp_path: Path):
    recipe = load_recipe(name)
    assert round_trip(recipe, tmp_path) == recipe


def test_a_recipe_with_every_kind_of_value_reads_back_the_same(tmp_path: Path):
    recipe = parsed(
        "data.validation=10",
        'data.classes=["1", "2", "3"]',
        "teacher.train.schedule={name='step', milestones=[1], factors=[0.1]}",
        "teacher.train.patience=3",
        "teacher.train.grad_clip=0.1",
        "teacher.train.augment={shift=1, flip=true, rotate=7.5}",
        "transfer_set.views=4",
        "transfer_set.augment.crop=2",
        'transfer_set.classes=["1", "2"]',
        "objective.soft_weight=0.1*T^2",
        "objective.temperature=2.5",
        "train.seeds=[3, 4]",
        "train.keep=best",
        "resources.gpus_per_worker=0",
    )
    assert recipe.teacher is not None
    assert recipe.teacher.train.schedule.options == {"milestones": [1], "factors": [0.1]}
    assert round_trip(recipe, tmp_path) == recipe


def test_all_problems_are_told_at_once():
    message = problem(
        "objective.temperature=0",
        "objective.hard_weight=-1",
        "train.epochs='many'",
        "train.lrr=0.1",
        "student.baselines=['label']",
    )
    assert message.startswith("here: 5 problems\n")
    for sentence in (
        "  objective.temperature: input should be greater than or equal to 0.001, but got 0",
        "  objective.hard_weight: input should be greater than or equal to 0, but got -1",
        "  train.epochs: input should be a valid integer, but got 'many'",
        "  train.lrr: unknown key; did you mean 'lr'? known: ",
        "  student.baselines.0: input should be 'labels', 'smoothing', 'softened-labels' or"
        " 'online', but got 'label'",
    ):
        assert f"\n{sentence}" in message


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("objectiv.temperature=3", "objectiv: unknown key; did you mean 'objective'?"),
        ("objective.temprature=3", "objective.temprature: unknown key; did you mean 'temperature'"),
        ("teacher.train.epoch=3", "teacher.train.epoch: unknown key; did you mean 'epochs'?"),
        ("teacher.train.augment.shfit=3", "augment.shfit: unknown key; did you mean 'shift'?"),
        ("transfer_set.dtypes='float16'", "transfer_set.dtypes: unknown key; did you mean 'dtype'"),
    ],
)
def test_a_misspelt_key_is_answered_with_the_nearest_one(override: str, sentence: str):
    message = problem(override)
    assert sentence in message
    assert message.startswith("here: ")
    assert "\n" not in message


@pytest.mark.parametrize("key", ["name", "data", "student"])
def test_a_missing_key_is_named(key: str):
    table = tiny_table()
    del table[key]
    with pytest.raises(ConfigError, match=rf"^here: {key}: this key is required; add it$"):
        parse_recipe(table, "here")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("objective.soft_weight=-1", "objective.soft_weight: must be a number >= 0"),
        ("objective.soft_weight=lots", "but got 'lots'"),
        ("transfer_set.views=2", "transfer_set: views = 2 needs augment"),
        ("train.keep=best", 'train: keep = "best" and patience choose by validation accuracy'),
        ("train.epochs=2.5", "train.epochs: input should be a valid integer, but got 2.5"),
        ("train.nesterov=1", "train.nesterov: input should be a valid boolean, but got 1"),
        ("data.fraction=nan", "data.fraction: "),
        ("name=../up", "name: string should match pattern"),
        ("train.seeds=[1, 1]", "train.seeds: must have each value once, but got [1, 1]"),
        ("train.seeds=[]", "train.seeds: list should have at least 1 item, but got []"),
        ("student.baselines=['labels', 'labels']", "student.baselines: must have each value once"),
        ("data.classes=['1']", "data.classes: list should have at least 2 items, but got ['1']"),
        (
            "objective.members=[0, 0]",
            "objective.members: must have each value once, but got [0, 0]",
        ),
        (
            "objective.members=0",
            "here: objective.members: input should be greater than or equal to 1, but got 0",
        ),
        (
            "objective.members='all'",
            "here: objective.members: input should be a valid integer or a valid list, but got",
        ),
        (
            "resources.gpus_per_worker=2",
            "here: resources.gpus_per_worker: input should be less than or equal to 1, but got 2",
        ),
        (
            "resources.cpus_per_worker='all'",
            "here: resources.cpus_per_worker: input should be a valid integer or 'auto', but got",
        ),
    ],
)
def test_a_broken_rule_is_told_with_its_place_and_value(override: str, expected: str):
    assert expected in problem(override)


def test_a_long_value_is_cut_in_the_message():
    assert len(problem(f"train.epochs='{'x' * 5000}'")) < 300


def test_rules_of_higher_floors_are_reported_together():
    rules = [lambda recipe: ["first"], lambda recipe: [], lambda recipe: ["second", recipe.name]]
    with pytest.raises(ConfigError, match=r"^here: 3 problems\n  first\n  second\n  tiny$"):
        parse_recipe(tiny_table(), "here", rules)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("objective.temperature=8", 8),
        ("objective.temperature=8.5", 8.5),
        ("objective.temperature = 8", 8),
        ("train.compile=true", True),
        ("train.compile=yes", "yes"),
        ("data.root=/some where/else", "/some where/else"),
        ("data.root='7'", "7"),
        ("train.seeds=[1, 2]", [1, 2]),
        ("student.model={name='mlp'}", {"name": "mlp"}),
        ("objective.soft_weight=0.5*T^2", "0.5*T^2"),
        ("a.b.c.d=x=y", "x=y"),
        ("name=", ""),
    ],
)
def test_an_override_sets_a_value_of_its_type_and_a_bare_word_is_a_string(
    override: str, value: Any
):
    table: dict[str, Any] = {}
    apply_override(table, override)
    for key in override.partition("=")[0].strip().split("."):
        table = table[key]
    assert table == value
    assert type(table) is type(value)


@pytest.mark.parametrize(
    ("override", "table"),
    [
        ('sweep.space."train.lr"=3', {"sweep": {"space": {"train.lr": 3}}}),
        ("'a.b' . c=3", {"a.b": {"c": 3}}),
        ("#=3", {"#": 3}),  # a comment is no key, but a mistake to be told as an unknown one
        ("a # b=3", {"a # b": 3}),
    ],
)
def test_a_dot_in_quotes_is_no_step_down(override: str, table: dict[str, Any]):
    read: dict[str, Any] = {}
    apply_override(read, override)
    assert read == table


def test_overrides_are_applied_in_order():
    assert parsed("train.epochs=5", "train.epochs=7").train.epochs == 7


def test_an_override_gives_a_bare_name_options():
    recipe = parsed("train.schedule=constant", "train.schedule.warmup=0.1")
    assert recipe.train.schedule.name == "constant"
    assert recipe.train.schedule.options == {"warmup": 0.1}


@pytest.mark.parametrize("override", ["train.epochs", "=3", ".epochs=3", "train..epochs=3", ""])
def test_an_override_that_is_no_assignment_is_refused(override: str):
    with pytest.raises(ConfigError, match="must be key=value, such as"):
        apply_override({}, override)


def test_an_override_below_a_value_is_refused():
    with pytest.raises(ConfigError, match=r"train\.epochs is a value, not a table"):
        apply_override(tiny_table(), "train.epochs.first=3")


def test_load_recipe_takes_a_path_with_any_suffix_and_a_shipped_name(tmp_path: Path):
    path = tmp_path / "settings.txt"
    path.write_text(tomli_w.dumps(tiny_table()))
    assert load_recipe(path) == parsed()
    assert load_recipe("quickstart").name == "quickstart"


def test_load_recipe_of_an_unknown_name_offers_the_nearest():
    with pytest.raises(ConfigError, match=r"^quikstart: a recipe is .* did you mean 'quickstart'"):
        load_recipe("quikstart")


def test_load_recipe_of_a_missing_file_or_a_folder_is_refused(tmp_path: Path):
    (tmp_path / "folder.toml").mkdir()
    for name in ("missing.toml", "folder.toml"):
        with pytest.raises(ConfigError, match="a recipe must be a readable text file"):
            load_recipe(tmp_path / name)


@pytest.mark.parametrize("content", [b"name = ", b"[data\n", b"a = 1\na = 2", b"\xff\xfe\x00"])
def test_load_recipe_of_a_damaged_file_names_it(content: bytes, tmp_path: Path):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^.*broken\.toml: .*must be (TOML|a readable)"):
        load_recipe(path)


def test_load_recipe_is_not_disturbed_by_a_stray_folder_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "quickstart").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("quickstart").name == "quickstart"
