"""Where the values of an exported student lie in C: three arrays, one for each type of number.

A place is taken again once the last step that needs it is done. There is one array for each type
because C lets a compiler assume that numbers of two types never share memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

from kd_ray.export.c_text import TYPES
from kd_ray.export.net import Operation, forms_of, shapes_of

SIZES = {"uint8_t": 1, "int16_t": 2, "int32_t": 4, "float": 4}
"""C type -> bytes."""
ROUND = 64
"""Places begin at multiples of so many numbers."""


@dataclass
class Memory:
    """Arrays of a student.

    Attributes:
        places: of each step's value: its form, and where in the array of this form it begins.
        sizes: form -> numbers.
        scratches: C type -> numbers that one step needs for itself.
    """

    places: list[tuple[str, int]]
    sizes: dict[str, int]
    scratches: dict[str, int] = field(default_factory=dict)

    def scratch(self, kind: str, size: int) -> None:
        """Asks for `size` numbers of a C type for one step."""
        self.scratches[kind] = max(size, self.scratches.get(kind, 0))

    @property
    def bytes(self) -> int:
        """Of all arrays, for each thread."""
        values = sum(SIZES[TYPES[form]] * size for form, size in self.sizes.items())
        return values + sum(SIZES[kind] * size for kind, size in self.scratches.items())

    def declarations(self) -> list[str]:
        """C declarations of all arrays."""
        values = [(TYPES[form], f"{form}s", size) for form, size in self.sizes.items()]
        own = [(kind, f"scratch_{kind}", size) for kind, size in self.scratches.items()]
        where = "static _Thread_local _Alignas(64)"
        return [f"{where} {kind} {name}[{size}];" for kind, name, size in values + own if size]


def planned(steps: Sequence[Operation], sources: Sequence[Sequence[int] | None]) -> Memory:
    """Places for the values of steps; those in use at one time do not overlap.

    Args:
        steps: of the student.
        sources: of each step, the numbers of the values that it takes; None where it has no value.
    """
    forms, shapes = forms_of(steps), shapes_of(steps)
    last = {source: number for number, own in enumerate(sources) for source in own or ()}
    last[len(steps) - 1] = len(steps)
    places: list[tuple[str, int]] = []
    sizes: dict[str, int] = {}
    taken: dict[str, list[tuple[int, int, int]]] = {}  # form -> start, stop, last step
    for number, (form, shape) in enumerate(zip(forms, shapes, strict=True)):
        size = 0 if sources[number] is None else -(-prod(shape) // ROUND) * ROUND
        used = sorted(each for each in taken.get(form, []) if each[2] >= number)
        start = 0
        for first, stop, _ in used:
            if first - start >= size:
                break
            start = max(start, stop)
        taken[form] = [*used, (start, start + size, last.get(number, number))]
        places.append((form, start))
        sizes[form] = max(sizes.get(form, 0), start + size)
    return Memory(places, sizes)
