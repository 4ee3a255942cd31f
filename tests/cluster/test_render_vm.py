import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.autoscaler._private.local.config import prepare_local
from ray.autoscaler._private.util import validate_config
from render_cases import (
    CPU,
    SECRET,
    SECRETS,
    SHIPPED,
    bash,
    hostile,
    hostile_recipe,
    program,
    recorded,
    recorder,
)

from cluster.render.targets import render
from cluster.render.vm import AWS, GCP, machine_for
from kd_ray.errors import ConfigError, UnknownNameError

PLACES: dict[str, dict[str, Any]] = {
    "aws": {"provider": "aws"},
    "gcp": {"provider": "gcp", "project": "my-project"},
    "local": {
        "provider": "local",
        "head_ip": "10.0.0.1",
        "worker_ip": ("10.0.0.2", "10.0.0.3"),
        "ssh_user": "me",
    },
}
providers = pytest.mark.parametrize("provider", PLACES)


def checked(text: str) -> dict[str, Any]:
    """The configuration, which Ray's own check accepts after its own preparation."""
    config = yaml.safe_load(text)
    validate_config(config)
    if config["provider"]["type"] == "local":
        prepared, _ = prepare_local(config)
        validate_config(prepared)
    return config


@providers
@pytest.mark.parametrize("recipe", SHIPPED)
def test_ray_accepts_every_shipped_recipe_on_every_provider(provider: str, recipe: str):
    config = checked(render("vm", recipe, **PLACES[provider]))
    assert config["cluster_name"] == recipe
    assert config["provider"]["type"] == provider


@providers
def test_workers_get_what_the_recipe_needs_and_grow_where_it_is_elastic(provider: str):
    sets = ["resources.workers=4", "resources.cpus_per_worker=6"]
    config = checked(
        render("vm", "mnist", sets, gpus_per_node=2, nodes=2, max_nodes=3, **PLACES[provider])
    )
    if provider == "local":
        assert config["max_workers"] == 2
        assert "--num-cpus=12 --num-gpus=2 " in config["worker_start_ray_commands"][1]
        return
    kinds = config["available_node_types"]
    assert kinds["worker"]["resources"] == {"CPU": 12, "GPU": 2}
    assert (kinds["worker"]["min_workers"], kinds["worker"]["max_workers"]) == (2, 3)
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert config["max_workers"] == 3


@pytest.mark.parametrize("provider", ["aws", "gcp"])
def test_every_option_of_a_cloud_at_once(provider: str):
    text = render(
        "vm",
        "mnist",
        spot=True,
        image="registry.example/kd-ray:1",
        package="git+https://example.org/kd-ray.git@v1",
        runs="s3://bucket/runs",
        data="/shared/data",
        credentials="workers",
        region="eu-west-1",
        zone="eu-west-1b",
        instance_type="big.machine",
        head_type="small.machine",
        machine_image="ami-1",
        ssh_user="me",
        ssh_key="/home/me/key",
        setup=("source /opt/x/bin/activate",),
        **PLACES[provider],
    )
    config = checked(text)
    assert config["auth"] == {"ssh_user": "me", "ssh_private_key": "/home/me/key"}
    kinds = config["available_node_types"]
    spot = {"aws": "'MarketType': 'spot'", "gcp": "'preemptible': True"}[provider]
    assert spot in str(kinds["worker"])
    assert spot not in str(kinds["head"])
    assert "workers" in str(kinds["head"]["node_config"])


@pytest.mark.parametrize("machines", [AWS, GCP], ids=["aws", "gcp"])
@given(cpus=st.integers(1, 96), gpus=st.integers(0, 8))
def test_the_machine_that_is_chosen_has_enough(machines: Any, cpus: int, gpus: int):
    try:
        name = machine_for(machines, cpus, gpus)
    except ConfigError:
        assert all(m.cpus < cpus or m.gpus < gpus for m in machines if bool(m.gpus) == bool(gpus))
        return
    [machine] = [machine for machine in machines if machine.name == name]
    assert machine.cpus >= cpus
    assert machine.gpus >= gpus
    assert machine.gpus or not gpus


@given(hostile, hostile)
@settings(max_examples=8)
def test_a_head_that_is_set_up_gets_hostile_text_as_it_was_typed(
    tmp_path_factory: pytest.TempPathFactory, comment: str, value: str
):
    folder = tmp_path_factory.mktemp("head")
    source = hostile_recipe(folder, comment)
    runs = f"{folder}/{value}"
    text = render(
        "vm",
        str(source),
        [*CPU, f"data.root=/data/{value}"],
        runs=runs,
        **PLACES["local"],
    )
    config = checked(text)
    home = folder / "home"
    home.mkdir()
    bin_ = folder / "bin"
    recorder(bin_, folder / "record")
    program(bin_, "python", "exit 0")
    submit = 'if [[ $1 == job ]]; then while [[ $1 != -- ]]; do shift; done; shift; "$@"; fi'
    say = f'echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN_PATH $*" >>"{folder}/ray"'
    program(bin_, "ray", f"{say}\nexport RAY_ADDRESS=x\n{submit}")
    variables = {"HOME": str(home), "RAY_AUTH_TOKEN": SECRET}
    for command in (
        *config["setup_commands"],
        *config["head_setup_commands"],
        *config["head_start_ray_commands"],
        "bash ~/kd-ray/start.sh",
    ):
        done = bash(command, home, bin_, **variables)
        assert done.returncode == 0, (command, done.stderr)
    assert Path(runs).is_dir()
    assert recorded(folder / "record") == [
        *("run", "kd-ray/recipe.toml", "--runs", runs),
        *("--set", CPU[0], "--set", f"data.root=/data/{value}"),
    ]
    recipe = (home / "kd-ray" / "recipe.toml").read_text(encoding="utf-8")
    assert recipe == source.read_text(encoding="utf-8")
    calls = (folder / "ray").read_text().splitlines()
    assert all(call.startswith(f"token {home}/.ray/auth_token ") for call in calls)
    assert not list(folder.rglob("pwned"))


def test_a_node_without_kd_ray_or_shared_storage_says_so_and_stops(tmp_path: Path):
    config = checked(render("vm", "mnist", runs=f"{tmp_path}/file/runs", **PLACES["local"]))
    (tmp_path / "file").write_text("in the way")
    program(tmp_path / "bin", "python", "exit 1")
    answers = []
    for command in config["setup_commands"]:
        done = bash(command, tmp_path, tmp_path / "bin", HOME=str(tmp_path))
        answers.append((done.returncode, done.stdout))
    assert [code for code, _ in answers] == [0, 0, 1, 1]
    assert "nodes must have kd-ray" in answers[2][1]
    assert "shared storage must be mounted" in answers[3][1]


@providers
def test_no_token_or_credential_of_the_environment_gets_in(
    provider: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    text = render("vm", "mnist", **PLACES[provider])
    assert SECRET not in text
    assert yaml.safe_load(text)["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    assert os.path.expanduser("~") not in text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"provider": "gcp"}, "--project: the id of a Google Cloud project is needed"),
        ({"provider": "local"}, "--provider local: needs --head-ip and --ssh-user"),
        ({**PLACES["local"], "spot": True}, "--spot: has no meaning with --provider local"),
        ({**PLACES["local"], "nodes": 4}, "--worker-ip: the recipe needs 4 machines, but"),
        ({"head_ip": "10.0.0.1"}, "--head-ip: has no meaning with --provider aws"),
        ({"region": "eu; rm"}, "--region: must be a name or an address"),
        ({"cpus_per_node": 1000}, "--instance-type: no known machine has 1000 CPUs and 1 GPUs"),
        ({"memory_per_node": 8}, "--memory-per-node: machines come with their memory"),
        ({"runs": "runs"}, "--runs: must be a URL or lie on the shared storage"),
    ],
)
def test_an_option_that_breaks_a_rule_is_answered(options: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        render("vm", "mnist", **options)


def test_an_unknown_provider_is_told_of_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'gcp'"):
        render("vm", "mnist", provider="gpc")
