"""What a run folder holds and how it comes about: one module for each stage.

A task can be sent anywhere. Performed in this process, in a Ray Train worker or in a test it is the
same code, and performed twice it goes on where it was, or says that it is done. Artefacts lie below
the run folder and are the only thing that stages hand to each other.
"""

from kd_ray.runs.events import Event, Finished, ShardDone, Started, Waiting
from kd_ray.runs.fit import finished_result, result_model
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.label import transfer_set_folder
from kd_ray.runs.perform import perform_all, perform_interleaved
from kd_ray.runs.stages import STAGES, commands_of, nothing_to, tasks_of
from kd_ray.runs.task import Request, Stage, Task
from kd_ray.runs.together import groups_of, perform_group

__all__ = [
    "STAGES",
    "Event",
    "Finished",
    "Inputs",
    "Request",
    "ShardDone",
    "Stage",
    "Started",
    "Task",
    "Waiting",
    "commands_of",
    "finished_result",
    "groups_of",
    "nothing_to",
    "perform_all",
    "perform_group",
    "perform_interleaved",
    "result_model",
    "tasks_of",
    "transfer_set_folder",
]
