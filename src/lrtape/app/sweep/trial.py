"""One training of a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of a sweep, with one seed: what becomes a child of the sweep's run. Crosses processes: plain values.

    Attributes:
        id: a hash of its config, without what belongs to the machine: the same config is the same trial, whatever its
            place in a sweep.
        name: for people: ``gamma=0.1 step_size=2``, and the seed where there are several.
        overrides: everything that its training is given, as Hydra takes it.
        values: the text of each swept value, by key, without the seed.
        seed: of the training.
        n_steps: optimizer steps that it will make; 0 where nobody knows.
        warning: what the findings say of its schedule; empty where that is nothing.
        refusal: why it will not be trained; empty where it will.
        same_as: the id of the trial that has the same learning rates, and the same config beside; empty for none.
        number: of the study's trial that it is, from 0; ``None`` in a grid.
    """

    id: str
    name: str
    overrides: tuple[str, ...]
    values: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    n_steps: int = 0
    warning: str = ""
    refusal: str = ""
    same_as: str = ""
    number: int | None = None

    @property
    def is_trained(self) -> bool:
        """Whether it is to be trained at all."""
        return not self.refusal and not self.same_as
