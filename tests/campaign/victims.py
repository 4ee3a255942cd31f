"""Whom a kill hits: a command, its process group, a worker of Ray's or one of Ray's helpers."""

import os
import random
import re
import signal

import psutil
from forked import Command

WORKER = re.compile(r"ray::(Performer|RayTrainWorker|\w*Trainable|TrialActor|label)")
"""Processes of Ray that do the work; all others help it: raylet, GCS, agents, queues."""


def title(process: psutil.Process) -> str:
    """The command line of one of `living`, cut."""
    return " ".join(process.info["cmdline"] or [])[-200:]


def victims(command: Command, kind: str) -> list[psutil.Process]:
    """Its processes of a kind, worker or helper, in the order of their command lines."""
    others = sorted((title(p), p.pid, p) for p in command.family() if p.pid != command.pid)
    busy = [(name, process) for name, _, process in others if "ray::IDLE" not in name]
    return [p for name, p in busy if (WORKER.search(name) is not None) is (kind == "worker")]


def strike(command: Command, victim: str, number: signal.Signals, draw: random.Random) -> str:
    """Sends a signal to a victim; says to which, nothing if there is none such now."""
    try:
        if victim == "driver":
            os.kill(command.pid, number)
        elif victim == "group":  # it has none before it is a session of its own
            os.killpg(command.pid, number)
        else:
            chosen = draw.choice(victims(command, victim))
            chosen.send_signal(number)
            victim = f"{victim} {title(chosen).split('/')[-1][:60]}"
    except (IndexError, ProcessLookupError, psutil.NoSuchProcess):
        return ""
    return f"{number.name} to {victim}"
