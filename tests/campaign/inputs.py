"""Gives `kd-ray` bad inputs made from a seed, and counts how it answers.

    uv run python tests/campaign/inputs.py --seed 1 --cases 10000
    uv run python tests/campaign/inputs.py --seed 1 --case 4711        # one again, with its output

Each case is a process forked from this one, with a time limit; every 250th is tried once more as a
process of the executable. README.md says what is counted.
"""

import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from damage import Case
from forked import POLL_S, TAG, Command, fork, load, perform
from rich.console import Console
from rich.table import Table
from spoiled import MAKERS, make
from subjects import RECIPE

ANSWERS = ("refused", "accepted")
FAULTS = ("traceback", "hang", "no sentence", "misread")
LIMIT_S = 30.0
REAL_LIMIT_S = 120.0
LONG_ENOUGH_S = 3.0
"""Then a recipe whose training has printed an epoch is an accepted one."""
MEMORY_BYTES = 10 * 2**30
"""Address space of one command, code included; a value that takes more was to be refused."""
LONGEST = 4000
"""Characters of an answer; a sentence does not print a value of megabytes."""
REAL_EVERY = 250
LINE_EVERY = 100
CRASH = re.compile(r"Traceback \(most recent|Fatal Python error|Segmentation fault")
SENTENCE = re.compile(r"^kd-ray: |^(Usage|Error)|╭─ Error", re.MULTILINE)

console = Console(width=120, highlight=False)


@dataclass(frozen=True)
class Answer:
    """How a command answered a case: its number, the case, one of ANSWERS or FAULTS, its output."""

    number: int
    case: Case
    verdict: str
    output: str


def trains(case: Case, output: str) -> bool:
    """Whether a recipe is at work, which may take as long as it says."""
    return case.kind == "recipe" and re.search(r": epoch \d+/|: \S+ written", output) is not None


def verdict(command: Command, case: Case) -> str:
    """How a command answered; one that still runs has hung, unless it is at work."""
    output, status = command.output(), command.status
    if status is None:
        return "accepted" if trains(case, output) else "hang"
    if CRASH.search(output) or status < 0 or status not in (0, 1, 2):
        return "traceback"
    if status == 2 and (not SENTENCE.search(output) or len(output) > LONGEST):
        return "no sentence"
    if status == 0 and case.problem():
        return "misread"
    return "accepted" if status == 0 else "refused"


class Campaign:
    """Cases of a seed, in folders below one."""

    def __init__(self, seed: int, folder: Path, only: list[str]) -> None:
        """Makes the finished run that artefacts are copies of."""
        self.seed, self.folder, self.only = seed, folder, only
        home = folder / "finished"
        home.mkdir()
        recipe, runs = str(home / "tiny.toml"), str(home / "runs")
        Path(recipe).write_text(RECIPE)
        for words in (("run",), ("tune", "run")):
            perform(*words, recipe, "--local", "--runs", runs)
        for words in (("tune", "best"), ("report",), ("inspect",)):
            perform(*words, f"{runs}/tiny")
        perform("audit", f"{runs}/tiny/transfer_set")
        perform("evaluate", f"{runs}/tiny/teacher/member-00")

    def _start(self, home: Path, arguments: list[str], real: bool = False) -> Command:
        log, tag = home.with_suffix(".log"), f"{os.getpid()}-{home.name}"
        environment = {TAG: tag, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        pid = fork(arguments, log, environment, folder=home, memory_bytes=MEMORY_BYTES, real=real)
        return Command(pid, log, {tag})

    def begin(self, number: int, real: bool = False) -> tuple[int, Case, Command, float]:
        """Makes a case and starts its command."""
        home = self.folder / f"case-{number}"
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        case = make(self.seed, number, home, self.only)
        return number, case, self._start(home, case.arguments, real), time.monotonic()

    def answer(
        self, number: int, case: Case, command: Command, since: float, limit_s: float = LIMIT_S
    ) -> Answer | None:
        """The answer of a command, None while it is awaited; a good one's folder is removed."""
        seconds = time.monotonic() - since
        at_work = seconds > LONG_ENOUGH_S and trains(case, command.output())
        if not command.ended() and seconds < limit_s and not at_work:
            return None
        found = Answer(number, case, verdict(command, case), command.output().rstrip())
        if found.verdict == "misread":
            found = replace(found, output=f"{found.output}\n{case.problem()}")
        if command.status is None:
            command.kill_family()
        if found.verdict in ANSWERS:
            shutil.rmtree(self.folder / f"case-{number}", ignore_errors=True)
            command.log.unlink(missing_ok=True)
        return found

    def answers(self, cases: int, parallel: int) -> Iterator[Answer]:
        """All answers, as they come; `parallel` commands run at a time."""
        todo, running = iter(range(cases)), []
        while True:
            running += [self.begin(number) for number in islice(todo, parallel - len(running))]
            if not running:
                return
            waiting = []
            for each in running:
                if (found := self.answer(*each)) is None:
                    waiting.append(each)
                else:
                    yield found
            running = waiting
            time.sleep(POLL_S)

    def alone(self, number: int, real: bool = False) -> Answer:
        """The answer of one case; `real` is one of the executable, which is slower to start."""
        begun = self.begin(number, real)
        while (found := self.answer(*begun, REAL_LIMIT_S if real else LIMIT_S)) is None:
            time.sleep(POLL_S)
        return found

    def differs(self, found: Answer) -> str:
        """How the executable itself answers a case, where that is otherwise."""
        real = self.alone(found.number, real=True)
        return "" if real.verdict == found.verdict else f"{real.verdict}: {real.output[-500:]}"


def table(counts: Counter[tuple[str, str]]) -> Table:
    """Kinds of cases with their answers."""
    shown = Table("input", "cases", *ANSWERS, *FAULTS, box=None)
    for kind in [*MAKERS, ""]:
        row = [
            sum(n for (k, v), n in counts.items() if (not kind or k == kind) and v == each)
            for each in (*ANSWERS, *FAULTS)
        ]
        if sum(row):
            shown.add_row(kind or "all", str(sum(row)), *map(str, row))
    return shown


def main(
    seed: Annotated[int, typer.Option(help="Seed of the cases.")] = 1,
    cases: Annotated[int, typer.Option(help="How many.")] = 10_000,
    only: Annotated[str, typer.Option(help="Kinds, with commas between.")] = ",".join(MAKERS),
    case: Annotated[int | None, typer.Option(help="This case alone, with its output.")] = None,
    parallel: Annotated[int, typer.Option(help="Commands at a time.")] = 2,
    short: Annotated[bool, typer.Option("--short", help="One minute.")] = False,
) -> None:
    """Give bad inputs and count the answers."""
    load()
    folder = Path(tempfile.mkdtemp(prefix="inputs-"))
    campaign = Campaign(seed, folder, only.split(","))
    if case is not None:
        found = campaign.alone(case)
        told = f"{found.verdict}: {found.case.about}\nkd-ray {shlex.join(found.case.arguments)}"
        console.print(f"{told}\n{found.output}", markup=False)
        raise typer.Exit(found.verdict in FAULTS)
    counts: Counter[tuple[str, str]] = Counter()
    asked, since = 300 if short else cases, time.monotonic()
    for done, found in enumerate(campaign.answers(asked, parallel), start=1):
        if done % LINE_EVERY == 0:
            console.print(f"{done:,} of {asked:,} inputs, {time.monotonic() - since:.0f} s")
        counts[found.case.kind, found.verdict] += 1
        told = f"{found.verdict}: {found.case.about}: {(found.output.splitlines() or [''])[-1]}"
        if found.number % REAL_EVERY == 0 and (other := campaign.differs(found)):
            counts[found.case.kind, "misread"] += 1
            told = f"misread: {found.verdict} forked, but as a process of its own {other}"
            found = replace(found, verdict="misread")
        if found.verdict in FAULTS:
            console.print(told[:300], markup=False, style="red")
            again = f"--seed {seed} --only {only} --case {found.number}"
            console.print(f"  again: {sys.argv[0]} {again}")
    console.print(table(counts))
    if any(kind_verdict[1] in FAULTS for kind_verdict in counts):
        console.print(f"Failed cases and their output: {folder}")
        raise typer.Exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    app()
