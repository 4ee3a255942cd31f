"""Errors that a user can do something about; everything else is a bug and keeps its traceback.

A message is one sentence: where, the rule, what was got, what to do. Errors cross process borders
inside Ray, so every child is built from its message alone and pickles by `args`.
"""


class KdRayError(Exception):
    """Something the user can mend; the command line prints it without a traceback and exits 2."""


class ConfigError(KdRayError):
    """A recipe, an override or an option breaks a rule."""


class UnknownNameError(ConfigError):
    """A name is not a key of the catalogue it should come from."""


class DataError(KdRayError):
    """A dataset is missing, empty or corrupt."""


class TransferSetError(KdRayError):
    """A transfer set is unfinished, altered, or does not fit the run that reads it."""


class CheckpointError(KdRayError):
    """A checkpoint is unreadable, or was made by another recipe."""


class TrainingError(KdRayError):
    """Training cannot go on: a loss that is not finite, a model that does not take the images."""


class StorageError(KdRayError):
    """A file cannot be written: the disk is full, or the folder is not writable or in use."""


class ClusterError(KdRayError):
    """The machine or cluster cannot give what was asked for."""
