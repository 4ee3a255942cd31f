import re
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from render_cases import SHIPPED
from typer.testing import CliRunner

from cluster.commands import RENDERED
from cluster.render.options import EVERY_KIND, KINDS, NodesOptions
from cluster.render.shape import shape_of
from cluster.render.targets import render
from kd_ray.cli.render import field_parameters
from kd_ray.cli.render import render as command
from kd_ray.config import Resources
from kd_ray.errors import ConfigError

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(command)


def typed(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_and_a_recipe_are_enough(kind: str):
    done = typed(kind, "quickstart")
    assert done.exit_code == 0
    assert done.stdout == render(kind, "quickstart")


def test_the_same_words_give_the_same_manifest():
    assert render("kuberay", "mnist") == render("kuberay", "mnist")


def test_a_file_is_written_whole_and_again(tmp_path: Path):
    out = tmp_path / "job.sh"
    out.write_text("older")
    for _ in range(2):
        done = typed("slurm", "quickstart", "--out", str(out))
        assert done.exit_code == 0
        assert done.stdout == ""
        assert "job.sh: written" in done.stderr
    assert out.read_text() == render("slurm", "quickstart")
    assert list(tmp_path.iterdir()) == [out]


def test_every_option_arrives():
    done = typed(
        *("kuberay", "mnist-sweep", "--command", "tune run", "--set", "name=swept"),
        *("--gpus-per-node", "2", "--cpus-per-node", "16", "--memory-per-node", "48"),
        *("--nodes", "2", "--max-nodes", "5", "--spot", "--node-label", "a=b"),
        *("--node-label", "c=d", "--image", "x:1", "--runs", "s3://bucket/runs"),
        *("--credentials", "keys", "--namespace", "team", "--token-secret", "token"),
    )
    assert done.exit_code == 0, done.output
    assert done.stdout == render(
        "kuberay",
        "mnist-sweep",
        ["name=swept"],
        command="tune run",
        gpus_per_node=2,
        cpus_per_node=16,
        memory_per_node=48,
        nodes=2,
        max_nodes=5,
        spot=True,
        node_label=("a=b", "c=d"),
        image="x:1",
        runs="s3://bucket/runs",
        credentials="keys",
        namespace="team",
        token_secret="token",
    )


def test_every_field_of_the_options_is_an_option_of_the_command_with_its_docstring():
    shown = {parameter.name: parameter for parameter in field_parameters()}
    for options in (*EVERY_KIND, *KINDS.values()):
        for name, field in options.model_fields.items():
            [option] = shown[name].annotation.__metadata__
            assert field.description
            assert " ".join(field.description.split()) in option.help


@pytest.mark.parametrize("name", RENDERED)
def test_every_command_that_takes_a_recipe_runs_from_a_manifest(name: str):
    recipe = {"tune run": "mnist-sweep", "specialize": "house-numbers"}.get(name, "quickstart")
    assert f"command=(kd-ray {name})\n" in render("slurm", recipe, command=name)


def test_no_gpus_are_an_option_that_was_given():
    done = typed("kuberay", "quickstart", "--gpus-per-node", "0")
    assert "nvidia.com/gpu" not in done.stdout


def test_a_command_that_is_a_directive_may_begin_with_dashes():
    done = typed("slurm", "mnist", "--sbatch", "--partition=gpu", "--sbatch", "qos=low")
    assert "#SBATCH --partition=gpu\n#SBATCH --qos=low\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["kubray", "mnist"], "unknown kind 'kubray'; did you mean 'kuberay'? known: kuberay, "),
        (["slurm", "mnits"], "mnits: a recipe is a .toml file or a shipped name; did you mean"),
        (["slurm", "mnist", "--command", "tun run"], "did you mean 'tune run'?"),
        (["slurm", "mnist", "--command", "tune run"], "needs a [sweep] table, but"),
        (["slurm", "mnist", "--spot"], "--spot: goes with kuberay and vm, but got kind slurm"),
        (["vm", "mnist", "--volume", "x"], "--volume: goes with kuberay, but got kind vm"),
        (["vm", "mnist", "--out", "/no/such/file"], "--out /no/such/file: must be a file in"),
        (["slurm", "mnist", "--out", "/tmp"], "--out /tmp: must be a file in a folder"),
        (["slurm", "mnist", "--nodes", "0"], "--nodes: must be at least 1, but got 0"),
        (["slurm", "mnist", "--package", "x"], "--package: goes with kuberay and vm, but got kind"),
        (["slurm", "mnist", "--command", "specialize"], "needs a [specialists] table, but"),
        (["slurm", "mnist", "--command", "quickstart"], "render `run` for the recipe quickstart"),
        (
            ["slurm", "mnist", "--command", "reproduce"],
            "submit the command with `kd-ray",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(words: list[str], sentence: str):
    done = typed(*words)
    assert done.exit_code == 2
    assert done.stderr.startswith("kd-ray: ")
    assert sentence in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("runs", "s3://AKIA:hush@bucket/runs"),
        ("runs", "gs://hush@bucket/runs"),
        ("runs", "s3://bucket/runs?token=hush"),
        ("package", "git+https://hush@example.org/kd-ray.git"),
        ("package", "https://example.org/kd-ray.whl?signature=hush"),
        ("data", "s3://u:hush@bucket/data"),
    ],
)
def test_what_looks_like_a_credential_is_refused_and_not_repeated(option: str, value: str):
    with pytest.raises(ConfigError, match=f"--{option}: must hold no credentials") as caught:
        render("kuberay", "mnist", **{option: value})
    assert "hush" not in str(caught.value)


def test_a_package_from_git_over_ssh_is_no_credential():
    package = "git+ssh://git@example.org/kd-ray.git"
    assert package in render("kuberay", "mnist", package=package)


def test_a_recipe_with_a_credential_is_refused_by_its_line(tmp_path: Path):
    path = tmp_path / "mine.toml"
    text = 'name = "mine"\n[data]\nname = "mnist"\nroot = "s3://u:hush@bucket"\n'
    path.write_text(text + '[teacher]\nmodel = "resnet20"\n[student]\nmodel = "resnet20"\n')
    with pytest.raises(ConfigError, match="must hold no credentials, but line 4 has a URL"):
        render("slurm", str(path))


@pytest.mark.usefixtures("no_own_code")
def test_own_code_beside_a_recipe_is_refused_as_it_would_not_travel(tmp_path: Path):
    recipe = tmp_path / "own.toml"
    (tmp_path / "own_nets.py").write_text("def tiny(classes): ...\n")
    recipe.write_text(
        'name = "own"\ndata = { name = "digits" }\nstudent = { model = "own_nets:tiny" }\n'
        'teacher = { model = { name = "mlp", hidden = [8] } }\n'
    )
    done = typed("kuberay", str(recipe))
    assert done.exit_code == 2
    assert "own_nets.py is named; install it in the image" in done.output


def test_a_recipe_without_a_name_is_refused(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(
        '[data]\nname = "mnist"\n[teacher]\nmodel = "resnet20"\n[student]\nmodel = "resnet20"\n'
    )
    with pytest.raises(ConfigError, match="name: this key is required"):
        render("vm", str(path))


@pytest.mark.parametrize(
    ("resources", "options", "sentence"),
    [
        ({"gpus_per_worker": 1.0}, {"gpus_per_node": 0}, "1 GPUs must fit a node, but"),
        ({"gpus_per_worker": 0.0}, {"gpus_per_node": 2}, "must be 0 where resources.gpus_per_w"),
        ({"cpus_per_worker": 8}, {"cpus_per_node": 4}, "8 CPUs must fit a node, but"),
        ({"workers": 9}, {"nodes": 2, "gpus_per_node": 4}, "9 workers must fit, but 2 nodes of"),
        ({"workers": 9}, {"max_nodes": 3}, "--max-nodes: must be at least the 9 nodes"),
    ],
)
def test_workers_that_do_not_fit_are_refused_with_the_arithmetic(
    resources: dict[str, Any], options: dict[str, Any], sentence: str
):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        shape_of(Resources(**resources), NodesOptions(**options))


@pytest.mark.parametrize(
    ("resources", "options", "nodes"),
    [
        ({"workers": 8}, {"gpus_per_node": 8}, (1, 1, 8)),
        ({"workers": 8}, {}, (8, 8, 1)),
        ({"elastic": (2, 6)}, {"gpus_per_node": 2}, (1, 3, 2)),
        ({"workers": 4, "gpus_per_worker": 0.25}, {}, (1, 1, 1)),
        ({"workers": 5, "gpus_per_worker": 0.25}, {}, (2, 2, 1)),
        ({"workers": 3, "gpus_per_worker": 0.0}, {}, (3, 3, 0)),
    ],
)
def test_workers_are_packed_into_as_few_nodes_as_hold_them(
    resources: dict[str, Any], options: dict[str, Any], nodes: tuple[int, int, int]
):
    shape = shape_of(Resources(**resources), NodesOptions(**options))
    assert (shape.nodes, shape.max_nodes, shape.gpus) == nodes


@pytest.mark.parametrize("recipe", SHIPPED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_recipe_travels_as_it_was_written(kind: str, recipe: str):
    text = render(kind, recipe)
    assert f'name = "{recipe}"' in text
    assert "epochs = " in text
