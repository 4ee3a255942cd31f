"""What a run folder holds and how it comes about: one module for each stage (floor 8).

A task can be sent anywhere. Performed in this process, in a Ray Train worker or in a test it is the
same code, and performed twice it goes on where it was, or says that it is done. Artefacts lie below
the run folder and are the only thing that stages hand to each other.
"""

from kd_ray.runs.combine import JOINT_TEACHER
from kd_ray.runs.events import Event, Finished, Started, Waiting
from kd_ray.runs.fit import RESULT, found_result, read_result, result_model
from kd_ray.runs.inputs import Inputs
from kd_ray.runs.perform import perform_all, perform_interleaved
from kd_ray.runs.task import Task, transfer_set_folder

__all__ = [
    "JOINT_TEACHER",
    "RESULT",
    "Event",
    "Finished",
    "Inputs",
    "Started",
    "Task",
    "Waiting",
    "found_result",
    "perform_all",
    "perform_interleaved",
    "read_result",
    "result_model",
    "transfer_set_folder",
]
