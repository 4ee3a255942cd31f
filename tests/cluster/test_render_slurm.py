import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from processes import wait_for
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
from kd_ray.errors import ConfigError

PROGRAMS = Path(sys.executable).parent  # ray, python and kd-ray of these tests, and shellcheck


def lint(script: str) -> None:
    """Both readers of scripts have nothing to say about it."""
    assert (
        bash(f"bash -n /dev/stdin <<'END_OF_TEST'\n{script}\nEND_OF_TEST", Path("/")).stderr == ""
    )
    if not (PROGRAMS / "shellcheck").exists():
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [PROGRAMS / "shellcheck", "--shell=bash", "-"], input=script, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def directives(script: str) -> list[str]:
    """What sbatch reads: it stops at the first line that is neither a comment nor empty."""
    found = []
    for line in script.splitlines():
        if line.startswith("#SBATCH "):
            found.append(line.removeprefix("#SBATCH "))
        elif line and not line.startswith("#"):
            break
    return found


def slurm_programs(folder: Path) -> Path:
    """`srun` and `scontrol` that do on this machine what Slurm's do, and write down their calls.

    They stand for Slurm alone: what `srun` is given, it becomes.
    """
    program(
        folder,
        "srun",
        f'printf "srun %s\\n" "$*" >>"{folder}/calls"\n'
        'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    )
    program(
        folder,
        "scontrol",
        f'printf "scontrol %s\\n" "$*" >>"{folder}/calls"\n'
        "[[ $1 != show ]] || tr , '\\n' <<<\"$3\"",
    )
    return folder


def job_variables(folder: Path, job_id: int = 4711, nodes: str = "node1,node2") -> dict[str, str]:
    return {
        "SLURM_JOB_ID": str(job_id),
        "SLURM_JOB_NODELIST": nodes,
        "SLURM_SUBMIT_DIR": str(folder),
    }


def fake_cluster(folder: Path) -> Path:
    """Programs for a run of the script without Ray, which takes no time."""
    bin_ = slurm_programs(folder / "bin")
    program(bin_, "ray", "[[ $1 != start ]] || exec sleep 60")
    program(bin_, "python", '[[ $2 != "import ray.util"* ]] || echo 127.0.0.1')
    return bin_


@pytest.mark.parametrize("recipe", SHIPPED)
def test_bash_and_shellcheck_have_nothing_to_say_about_any_shipped_recipe(recipe: str):
    script = render("slurm", recipe)
    lint(script)
    assert f"--job-name={recipe}" in directives(script)
    assert "--gpus-per-node=1" in directives(script)


def test_directives_say_what_the_recipe_needs():
    script = render(
        "slurm",
        "mnist",
        ["resources.workers=6", "resources.cpus_per_worker=3"],
        gpus_per_node=4,
        memory_per_node=64,
        sbatch=("partition=gpu", "--time=04:00:00", "exclusive"),
    )
    wanted = ["nodes=2", "ntasks-per-node=1", "cpus-per-task=12", "gpus-per-node=4", "mem=64G"]
    wanted += ["requeue", "signal=B:USR1@120", "partition=gpu", "time=04:00:00", "exclusive"]
    assert {f"--{each}" for each in wanted} <= set(directives(script))


def test_nodes_without_gpus_are_not_asked_for_any():
    assert not [d for d in directives(render("slurm", "mnist", CPU)) if "gpu" in d]


@given(hostile, hostile)
@settings(max_examples=8)
@pytest.mark.slow
def test_the_job_gets_hostile_text_as_it_was_typed(
    tmp_path_factory: pytest.TempPathFactory, comment: str, value: str
):
    folder = tmp_path_factory.mktemp("job")
    source = hostile_recipe(folder, comment)
    script = render(
        "slurm",
        str(source),
        [*CPU, f"data.root=/data/{value}"],
        runs=f"/runs/{value}",
        data=f"/data/{value}",
    )
    lint(script)
    bin_ = fake_cluster(folder)
    recorder(bin_, folder / "record")
    done = bash(script, folder, bin_, **job_variables(folder))
    assert done.returncode == 0, done.stderr
    home = folder / "kd-ray-4711"
    assert (home / "recipe.toml").read_text(encoding="utf-8") == source.read_text(encoding="utf-8")
    assert recorded(folder / "record") == [
        *("run", str(home / "recipe.toml"), "--runs", f"/runs/{value}"),
        *("--address", f"127.0.0.1:{20_000 + 4711 % 4000 * 3}"),
        *("--set", CPU[0], "--set", f"data.root=/data/{value}"),
    ]
    assert not list(folder.rglob("pwned"))


def test_the_token_is_for_the_user_alone_and_gone_when_the_job_is(tmp_path: Path):
    bin_ = fake_cluster(tmp_path)
    program(
        bin_,
        "kd-ray",
        'stat -c "%a %s" "$RAY_AUTH_TOKEN_PATH" >seen\n'
        'echo "$RAY_AUTH_MODE ${RAY_AUTH_TOKEN-unset}" >>seen',
    )
    script = render("slurm", "mnist", CPU)
    variables = {**job_variables(tmp_path), "RAY_AUTH_TOKEN": SECRET}
    assert bash(script, tmp_path, bin_, **variables).returncode == 0
    assert (tmp_path / "seen").read_text().split("\n")[:2] == ["600 64", "token unset"]
    assert oct((tmp_path / "kd-ray-4711").stat().st_mode)[-3:] == "700"
    assert not (tmp_path / "kd-ray-4711" / "token").exists()


def test_the_status_of_the_run_is_that_of_the_job(tmp_path: Path):
    bin_ = fake_cluster(tmp_path)
    program(bin_, "kd-ray", "exit 2")
    done = bash(render("slurm", "mnist", CPU), tmp_path, bin_, **job_variables(tmp_path))
    assert done.returncode == 2
    assert "ended with status 2; see" in done.stderr
    assert "requeue" not in (bin_ / "calls").read_text()


@pytest.mark.parametrize(("told", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_warning_puts_the_job_back_into_the_queue_and_an_end_does_not(
    tmp_path: Path, told: signal.Signals, again: bool
):
    bin_ = fake_cluster(tmp_path)
    program(bin_, "kd-ray", "touch started; exec sleep 60")
    job = subprocess.Popen(
        ["bash", "-c", render("slurm", "mnist", CPU)],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            **job_variables(tmp_path),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for("the start", lambda: (tmp_path / "started").exists())
    job.send_signal(told)
    _, errors = job.communicate(timeout=30)
    assert job.returncode == 143
    assert "told to stop" in errors
    assert ("scontrol requeue 4711" in (bin_ / "calls").read_text()) == again


def test_a_head_that_ends_is_told_of_at_once(tmp_path: Path):
    bin_ = fake_cluster(tmp_path)
    program(bin_, "ray", "echo no such option; exit 1")
    done = bash(render("slurm", "mnist", CPU), tmp_path, bin_, **job_variables(tmp_path))
    assert done.returncode == 1
    assert "Ray must run on node1, but ended; see" in done.stderr


def test_jobs_that_lie_close_to_each_other_have_ports_of_their_own():
    line = next(line for line in render("slurm", "mnist").splitlines() if line.startswith("port="))
    loop = "for ((SLURM_JOB_ID = 7000; SLURM_JOB_ID < 11000; SLURM_JOB_ID++)); do"
    script = f"{loop}\n{line}\necho $port\ndone"
    ports = [int(text) for text in bash(script, Path("/")).stdout.split()]
    taken = {port + n for port in ports for n in range(3)}
    assert len(taken) == 12_000
    assert 20_000 <= min(taken) <= max(taken) < 32_000  # below those that the kernel hands out


def test_no_token_or_credential_of_the_environment_gets_in(monkeypatch: pytest.MonkeyPatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    assert SECRET not in render("slurm", "mnist", setup=("source /venv/bin/activate",))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sbatch": ("partition=a b",)}, "--sbatch: must be one option of sbatch"),
        ({"sbatch": ("nodes=3",)}, "--sbatch: nodes=3 is written from the recipe"),
        ({"setup": ("a\nb",)}, "--setup: must be one line"),
        ({"runs": "~/runs"}, "--runs: must not begin with ~"),
        ({"data": "data"}, "--data: must be an absolute path"),
    ],
)
def test_an_option_that_breaks_a_rule_is_answered(options: dict[str, Any], sentence: str):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        render("slurm", "mnist", **options)


@pytest.mark.slow
@pytest.mark.ray
def test_a_job_on_two_nodes_is_warned_put_back_and_goes_on_where_it_was(tmp_path: Path):
    """Real Ray, two raylets; only srun and scontrol are stand-ins, on this machine."""
    short = ["train.seeds=[0]", "train.epochs=5", "student.baselines=[]"]
    sets = [*CPU, "resources.workers=2", "teacher.train.epochs=40", *short]
    script = render("slurm", "quickstart", sets, cpus_per_node=1, nodes=2)
    bin_ = slurm_programs(tmp_path / "bin")
    env = {
        **os.environ,
        "PATH": f"{bin_}:{PROGRAMS}:{os.environ['PATH']}",
        **job_variables(tmp_path, job_id=os.getpid()),
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5",
    }
    env.pop("RAY_ADDRESS", None)
    out = tmp_path / "out"
    with out.open("w") as file:
        job = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=env, stdout=file)
        wait_for("an epoch", lambda: "teacher 0: epoch" in out.read_text())
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=120) == 143
    assert f"scontrol requeue {os.getpid()}" in (bin_ / "calls").read_text()
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert "teacher 0: goes on after epoch" in done.stdout
    assert "student distilled, seed 0: finished" in done.stdout
    assert not Path(f"/tmp/kd-ray-{os.getpid()}").exists()
