"""A study: runs that answer one question together, performed part by part by one runner.

Every part is an ordinary run folder, so every other command works on it. A part that fails does not
end the others; it is named, and so are the questions that miss it.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from kd_ray.errors import ConfigError, KdRayError
from kd_ray.files import locked, remove_drafts
from kd_ray.pipeline import Run
from kd_ray.report.html import Section
from kd_ray.report.summary import Summary, summarize_results
from kd_ray.runs import Event, Finished, Task, finished_result


@dataclass(frozen=True)
class PartBegins:
    """A part begins; its number counts from 1, and `done` and `tasks` are of all parts."""

    part: str
    about: str
    number: int
    parts: int
    done: int
    tasks: int


@dataclass(frozen=True)
class PartFailed:
    """A part could not be finished, and these questions miss it."""

    part: str
    questions: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class StudyPart:
    """One run of a study, with the students and stages that are needed.

    Attributes:
        name: of its folder.
        about: what is in it, as a clause.
        after: what is computed from its artefacts when they are whole.
        questions: names of those that its figures answer.
    """

    name: str
    about: str
    run: Run
    stages: tuple[str, ...]
    after: Callable[[Run], Iterator[tuple[Task, Event]]] = lambda run: iter(())
    questions: tuple[str, ...] = ()

    @property
    def summary(self) -> Summary:
        """The figures of what this call has made or met with."""
        return summarize_results(self.run.folder, list(self.run.results.values()))


@dataclass(frozen=True)
class Answer:
    """What a study has come to so far: a section for each question, and the files written."""

    sections: Sequence[Section]
    files: Sequence[Path]


@dataclass
class Study:
    """Runs that answer one question together, and the folder that the answer lies in.

    Attributes:
        folder: absolute or in a store.
        parts: in order; one makes what later ones use.
        answer: writes table and page with what is there, given why parts are not finished.
        leaving: headings of columns that a narrow terminal goes without, the least missed first.
        finished: names of the parts that this call has made or met with.
        failures: of this call, so far.
    """

    folder: Path
    parts: Sequence[StudyPart]
    answer: Callable[[Mapping[str, str]], Answer]
    leaving: Sequence[str] = ()
    finished: set[str] = field(default_factory=set)
    failures: list[PartFailed] = field(default_factory=list)

    def events(self) -> Generator[PartBegins | PartFailed | tuple[Task, Event]]:
        """Performs what is not done yet; after each part, table and page are written.

        Raises:
            KdRayError: of the only part of a study.
            StorageError: another process works in the folder, or a page cannot be written.
        """
        wanted = [part.run.tasks(part.stages) for part in self.parts]
        done, tasks = 0, sum(map(len, wanted))
        alone = len(self.parts) == 1
        with ExitStack() as stack:
            if not alone:  # one run locks its folder itself
                stack.enter_context(locked(self.folder))
                remove_drafts(self.folder)
            for number, (part, todo) in enumerate(zip(self.parts, wanted, strict=True), 1):
                if not alone:
                    yield PartBegins(part.name, part.about, number, len(self.parts), done, tasks)
                try:
                    if not part.run.local and any(finished_result(task) is None for task in todo):
                        from kd_ray.on_ray import connected

                        # Once for all parts; where Ray runs already, this does nothing.
                        stack.enter_context(connected(part.run.address, part.run.verbose))
                    with closing(part.run.events(part.stages)) as events:
                        for task, event in events:
                            done += isinstance(event, Finished)
                            yield task, event
                    yield from part.after(part.run)
                    self.finished.add(part.name)
                except KdRayError as error:
                    if alone:
                        raise
                    self.failures.append(PartFailed(part.name, part.questions, str(error)))
                    yield self.failures[-1]
                self.written()

    def written(self) -> Answer:
        """Writes table and page with what is there by now."""
        reasons = {failure.part: f"failed, {failure.reason}" for failure in self.failures}
        names = [part.name for part in self.parts if part.name not in self.finished]
        return self.answer({name: reasons.get(name, "") for name in names})


def check_overrides(overrides: Sequence[str], ours: Sequence[str]) -> None:
    """Refuses what would make runs of a study alike that it tells apart.

    Args:
        overrides: `key.path=value`, for every run.
        ours: keys that the study sets itself.

    Raises:
        ConfigError: an override is of one of these, or of a table that has one.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if any(key == own or own.startswith(f"{key}.") for own in ours):
            raise ConfigError(
                f"--set {override}: {key} tells the experiments' runs apart, so it cannot be set "
                "for all of them; leave it out"
            )
