"""Kills `kd-ray` commands at moments drawn from a seed, runs them again, and compares what is made.

    uv run python tests/campaign/kills.py --seed 1 --kills 20 --only run,tune --ray

A *chain* is one command in one folder: killed up to three times, each time further on in its work,
then run to its end. A moment is a line that the undisturbed command printed and a drawn part of a
second after it; the victim and the signal are drawn too. README.md says what is counted.
"""

import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from forked import TAG, Command, fork, load
from rich.console import Console
from rich.table import Table
from subjects import RECIPE, SUBJECTS, Subject, made
from victims import strike, title

FAULTS = ("lost", "differing", "tracebacks", "hangs", "wrong codes", "drafts", "processes")
LIMIT_S = {"local": 120.0, "ray": 600.0}
AFTER_S = {"local": 0.05, "ray": 0.5}
"""The longest that a kill comes after its line, so that it falls into epochs and commits too."""
GONE_S = 20.0
WAIT_S = 2.0
"""Between two starts of a job that is refused because its forerunner, without its client, lives."""
IN_A_CHAIN = 3
ANSWERED = {signal.SIGINT: 130, signal.SIGTERM: 143}
EVENT = re.compile(r": epoch|: finished|: \S+ written|^trial|^Starting")
CRASH = re.compile(r"Traceback \(most recent|Fatal Python error|StackTrace Information|\*\*\* SIG")
SHORT = {"run": 3, "tune": 3, "specialize": 2, "exercises": 2}
"""Command -> kills, of the short form."""

console = Console(width=120, highlight=False)


@dataclass
class Chain:
    """What one chain came to."""

    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def note(self, fault: str, what: str) -> None:
        """Counts a fault."""
        self.faults[fault] += 1
        self.notes.append(f"{fault}: {what}")


def moment(line: str) -> str:
    """What a line of progress says without its figures, which differ from run to run.

    >>> moment("teacher 0: epoch 2/4  loss 2.1  9,213 images/s  remaining 0.1 s")
    'teacher 0: epoch 2/4'
    """
    if not EVENT.search(line):
        return ""
    return re.sub(r"\s{2,}.*| in [\d.]+ .*|\(.*| after .*", "", line).strip()


def stage(name: str) -> str:
    """What a moment belongs to."""
    return name.partition(":")[0]


def moments(output: str) -> list[str]:
    """The moments that a command has passed; one before its first line."""
    return ["", *filter(None, map(moment, output.splitlines()))]


def drawn(names: list[str], draw: random.Random) -> list[str]:
    """Moments of different stages, in order; a stage with many lines is hit no more than others."""
    stages = [list(some) for _, some in groupby(names, stage)]
    chosen = sorted(draw.sample(range(len(stages)), min(IN_A_CHAIN, len(stages))))
    return [draw.choice(stages[number]) for number in chosen]


class Campaign:
    """One command, locally or on Ray: its undisturbed run and its chains."""

    def __init__(self, subject: Subject, place: str, seed: int, folder: Path) -> None:
        """Works in folders below `folder`; `place` is local or ray."""
        self.subject, self.place, self.seed = subject, place, seed
        self.folder = folder / f"{subject.name}-{place}"
        self.moments: list[str] = []
        self.wanted: dict[str, object] = {}
        self._cluster = f"camp-{os.getpid()}"
        self._latest: Command | None = None

    def start(self, home: Path) -> Command:
        """The command in a folder of its own; a job's cluster is up before."""
        home.mkdir(parents=True, exist_ok=True)
        recipe, log = home / "tiny.toml", home / f"log-{len(list(home.glob('log-*')))}"
        recipe.write_text(RECIPE)
        where = ["--local"] if self.place == "local" else []
        if self.subject.submitted:
            where = ["--name", self._cluster]
            self._ready(home)
        arguments = self.subject.arguments(recipe, home / "runs", where)
        tag = f"{os.getpid()}-{self.folder.name}-{home.name}"
        self._latest = self._forked(arguments, log, tag)
        return self._latest

    def _forked(self, arguments: list[str], log: Path, tag: str) -> Command:
        tags = {tag, self._cluster} if self.subject.submitted else {tag}
        environment = {TAG: tag, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        return Command(fork(arguments, log, environment), log, tags)

    def _cluster_command(self, home: Path, *words: str) -> int | None:
        options = ["cluster", *words, "--name", self._cluster]
        command = self._forked(options, home / "cluster", self._cluster)
        command.wait(LIMIT_S["ray"])
        return command.status

    def _ready(self, home: Path) -> None:
        if self._cluster_command(home, "status") != 0:
            self._cluster_command(home, "down")
            if self._cluster_command(home, "up", "--nodes", "1", "--cpus", "2") != 0:
                raise RuntimeError(f"cluster {self._cluster}: {(home / 'cluster').read_text()}")

    def close(self) -> None:
        """Ends what still runs of an interrupted chain, and the cluster of jobs."""
        if self._latest is not None:
            self._latest.kill_family()
        if self.subject.submitted:
            self._cluster_command(self.folder, "down")

    def undisturbed(self) -> None:
        """Learns the moments, and what is to be made.

        Raises:
            RuntimeError: the command does not even end well alone.
        """
        command = self.start(self.folder / "undisturbed")
        command.wait(LIMIT_S[self.place])
        if command.status != 0:
            command.kill_family()
            raise RuntimeError(f"{self.folder.name}, undisturbed: {command.output()[-2000:]}")
        self.moments = list(dict.fromkeys(moments(command.output())))
        self.wanted = made(self.folder / "undisturbed" / "runs")

    def chain(self, number: int) -> Chain:
        """Performs a chain, and deletes its folder if nothing was wrong."""
        draw = random.Random(f"{self.seed} {self.folder.name} {number}")
        home, chain = self.folder / f"chain-{number}", Chain()
        shutil.rmtree(home, ignore_errors=True)
        for when in drawn(self.moments, draw):
            if self._killed(home, chain, when, draw) == 0:
                break
        self._finish(home, chain)
        self._compare(home, chain)
        if not chain.notes:
            shutil.rmtree(home)
        return chain

    def _killed(self, home: Path, chain: Chain, when: str, draw: random.Random) -> int | None:
        """One start and one kill; the exit status, None where it hung."""
        victim = draw.choice(["driver", "group", *["worker", "helper"] * (self.place == "ray")])
        number = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        if not when or victim in ("worker", "helper"):  # nothing is answered before Python is up
            number = signal.SIGKILL
        after_s, struck = draw.random() * AFTER_S[self.place], ""
        command = self.start(home)
        if command.wait(LIMIT_S[self.place], lambda: when in moments(command.output())):
            time.sleep(after_s)
            if not command.ended():
                struck = strike(command, victim, number, draw)
                struck = struck or strike(command, "driver", number, draw)
        chain.kills += bool(struck)
        codes = {0, 2}  # 0: it was done just before, or did without the victim
        if struck.endswith(("to driver", "to group")):
            codes = {0, ANSWERED.get(number, -number)}
        elif struck and self.subject.submitted:
            codes = {0, 1, 2}  # the job's own
        self._judge(command, chain, f"{struck or 'no kill'} after {when!r}", codes)
        return command.status

    def _judge(self, command: Command, chain: Chain, about: str, codes: set[int]) -> None:
        """Waits for the end of a start and looks at it."""
        about += f" ({command.log.name})"
        if not command.wait(LIMIT_S[self.place]):
            chain.note("hangs", about)
        elif command.status not in codes:
            chain.note("wrong codes", f"{command.status}, {about}")
        if CRASH.search(command.output()):
            chain.note("tracebacks", about)
        if self.subject.submitted:  # its cluster goes on
            if command.status is None:
                os.kill(command.pid, signal.SIGKILL)
        else:
            deadline = time.monotonic() + GONE_S * (command.status is not None)
            while command.family() and time.monotonic() < deadline:
                time.sleep(0.1)
            if left := [title(process)[-60:] for process in command.family()]:
                chain.note("processes", f"{left} {about}")
            command.kill_family()

    def _finish(self, home: Path, chain: Chain) -> None:
        """Runs the command again until it ends with 0."""
        deadline = time.monotonic() + LIMIT_S[self.place]
        while time.monotonic() < deadline:
            command = self.start(home)
            self._judge(command, chain, "run again", {0, 2})
            if command.status == 0:
                return
            time.sleep(WAIT_S)
        chain.note("hangs", f"never ended with 0, but said: {command.output()[-300:]}")

    def _compare(self, home: Path, chain: Chain) -> None:
        found = made(home / "runs")
        for what, value in self.wanted.items():
            if what not in found:
                chain.note("lost", what)
            elif found[what] != value:
                chain.note("differing", f"{what}: {found[what]} instead of {value}")
        for draft in (home / "runs").rglob(".tmp-*"):
            chain.note("drafts", str(draft.relative_to(home)))


def chains(campaign: Campaign, kills: int) -> Iterator[tuple[int, Chain]]:
    """Chains until there were so many kills."""
    number = done = 0
    while done < kills:
        chain = campaign.chain(number)
        done += chain.kills
        yield number, chain
        number += 1


def table(rows: dict[str, tuple[int, int, Counter[str]]]) -> Table:
    """Commands with their chains, kills and faults."""
    shown = Table("command", "chains", "kills", *FAULTS, box=None)
    for name, (count, kills, faults) in rows.items():
        shown.add_row(name, str(count), str(kills), *(str(faults[fault]) for fault in FAULTS))
    return shown


def main(
    seed: Annotated[int, typer.Option(help="Seed of moments, victims and signals.")] = 1,
    kills: Annotated[int, typer.Option(help="Kills of each command, at least.")] = 20,
    only: Annotated[str, typer.Option(help="Commands, with commas between.")] = "",
    ray: Annotated[bool, typer.Option("--ray", help="On Ray instead of --local.")] = False,
    case: Annotated[int | None, typer.Option(help="Perform this chain alone.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Two minutes, without Ray.")] = False,
) -> None:
    """Kill commands, run them again, and count what was lost."""
    load()
    place = "ray" if ray else "local"
    names = only.split(",") if only else list(SHORT if short else SUBJECTS)
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    rows: dict[str, tuple[int, int, Counter[str]]] = {}
    for name in names:
        if SUBJECTS[name].submitted and not ray:
            continue
        campaign = Campaign(SUBJECTS[name], place, seed, folder)
        row = campaign.folder.name
        count, done, faults = 0, 0, Counter[str]()
        try:
            campaign.undisturbed()
            asked = SHORT[name] if short else kills
            todo = chains(campaign, asked) if case is None else [(case, campaign.chain(case))]
            for number, chain in todo:
                count, done, faults = count + 1, done + chain.kills, faults + chain.faults
                console.print(f"{row}: chain {number}, {done} kills, {faults.total()} faults")
                for note in chain.notes:
                    console.print(f"  {note}", style="red", markup=False)
                if chain.notes:
                    again = f"--seed {seed} --only {name} --case {number}{' --ray' * ray}"
                    console.print(f"  again: {sys.argv[0]} {again}; see {campaign.folder}")
        finally:
            campaign.close()
        rows[row] = count, done, faults
    console.print(table(rows))
    if any(faults.total() for *_, faults in rows.values()):
        raise typer.Exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
