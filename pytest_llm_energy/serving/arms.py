"""Scenarios that belong together: the arms of a comparison, and a series over one number."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from pytest_llm_energy.errors import ScenarioError
from pytest_llm_energy.serving.scenario import Scenario, sharing


class Arms(Mapping[str, Scenario]):
    """Named scenarios of one comparison, interleaved when measured; the last is the control.

    ``Arms(beam=..., greedy=...)`` is immutable and hashable, so it can be a parameter value; ``at`` sets fields
    in every arm and names the case: ``str(arms.at(batch_size=8))`` is ``8``.

    Raises:
        ScenarioError: fewer than two arms, or arms whose requests differ in length (their effect would be of
            the work, not of how it is served).
    """

    def __init__(self, **arms: Scenario) -> None:
        if len(arms) < 2:
            raise ScenarioError("a comparison needs two arms or more")
        lengths = {(arm.input_tokens, arm.output_tokens) for arm in arms.values()}
        if len(lengths) != 1:
            raise ScenarioError(f"arms must serve requests of equal lengths, not {sorted(lengths)}")
        self._arms = MappingProxyType(dict(zip(arms, sharing(list(arms.values())), strict=True)))
        self._label = "-".join(arms)

    def at(self, **fields: Any) -> "Arms":
        """The same arms with these fields set in each."""
        changed = Arms(**{name: arm.replace(**fields) for name, arm in self._arms.items()})
        return changed.named("-".join(str(value) for value in fields.values()))

    def named(self, label: str) -> "Arms":
        """The same arms under another label, which names the case."""
        renamed = Arms(**self._arms)
        renamed._label = label
        return renamed

    @property
    def control(self) -> str:
        """Name of the arm that effects are relative to."""
        return list(self._arms)[-1]

    @property
    def batch_size(self) -> int:
        """Largest batch size among the arms."""
        return max(arm.batch_size for arm in self._arms.values())

    def __getitem__(self, name: str) -> Scenario:
        return self._arms[name]

    def __iter__(self) -> Any:
        return iter(self._arms)

    def __len__(self) -> int:
        return len(self._arms)

    def __eq__(self, other: object) -> bool:
        """Equal arms in equal order: the last is the control."""
        return isinstance(other, Arms) and list(self.items()) == list(other.items())

    def __hash__(self) -> int:
        return hash(tuple(self._arms.items()))

    def __str__(self) -> str:
        return self._label

    def __repr__(self) -> str:
        return f"Arms({', '.join(f'{name}={arm}' for name, arm in self._arms.items())})"


class Series(tuple[Scenario, ...]):
    """Scenarios that are measured side by side: ``Series.over(base, input_tokens=(1, 2, 4))``."""

    label: str = "series"

    @classmethod
    def over(cls, base: Scenario, **axis: tuple[int, ...]) -> "Series":
        """One scenario per value of one field.

        Raises:
            ScenarioError: not exactly one field, or fewer than two values.
        """
        if len(axis) != 1:
            raise ScenarioError(f"a series runs over exactly one field, not {sorted(axis)}")
        ((field, values),) = axis.items()
        if len(values) < 2:
            raise ScenarioError(f"a series over {field} needs two values or more")
        series = cls(sharing([base.replace(**{field: value}) for value in values]))
        series.label = str(base.batch_size)
        return series

    @classmethod
    def of(cls, scenarios: Iterable[Scenario]) -> "Series":
        """Scenarios that differ in several fields.

        Raises:
            ScenarioError: fewer than two.
        """
        series = cls(sharing(list(scenarios)))
        if len(series) < 2:
            raise ScenarioError("a series needs two scenarios or more")
        return series

    def named(self, label: str) -> "Series":
        """The same scenarios under another label, which names the case."""
        series = Series(self)
        series.label = label
        return series

    def __str__(self) -> str:
        return self.label
