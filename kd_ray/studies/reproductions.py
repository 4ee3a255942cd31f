"""The experiments that `kd-ray reproduce` can be asked for, by what they are done on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from kd_ray.catalog import pick
from kd_ray.studies.losses import LOSSES, LOSSES_QUICK, losses
from kd_ray.studies.paper import SCALES, reproduction
from kd_ray.studies.speech import SPEECH, SPEECH_QUICK, speech
from kd_ray.studies.study import Study


@dataclass(frozen=True)
class Reproduction:
    """The name of a reproduction's folder, and what makes its study of overrides and options."""

    name: str
    study: Callable[..., Study]


REPRODUCTIONS: Mapping[str, tuple[Reproduction, Reproduction]] = {
    "mnist": (
        Reproduction(SCALES["mnist"].name, partial(reproduction, SCALES["mnist"])),
        Reproduction(SCALES["mnist-quick"].name, partial(reproduction, SCALES["mnist-quick"])),
    ),
    "speech": (
        Reproduction(SPEECH.name, partial(speech, SPEECH)),
        Reproduction(SPEECH_QUICK.name, partial(speech, SPEECH_QUICK)),
    ),
    "losses": (
        Reproduction(LOSSES.name, partial(losses, LOSSES)),
        Reproduction(LOSSES_QUICK.name, partial(losses, LOSSES_QUICK)),
    ),
}
"""Name -> at full length, and quick."""


def reproduction_of(name: str, *, quick: bool) -> Reproduction:
    """The experiments on some data, at full length or quick.

    Raises:
        UnknownNameError: there are none on it.
    """
    large, small = pick("reproduction", REPRODUCTIONS, name)
    return small if quick else large
