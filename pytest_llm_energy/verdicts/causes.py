"""Why a level changed: joules per token are seconds per token times watts, and either may have moved."""

from typing import Literal

import msgspec

from pytest_llm_energy.verdicts.statistics import Interval

Kind = Literal[
    "faster-but-hungrier",
    "slower-but-leaner",
    "slower-and-hungrier",
    "faster-and-leaner",
    "slower",
    "faster",
    "hungrier",
    "leaner",
    "unclear",
]
"""Which of the two moved, and how: hungrier and leaner are more and less power, per second rather than per token.
Of one that is not named it is shown that it is not behind the change."""

NEGLIGIBLE = 0.1
"""A part that moved by less than this share of the whole change is not named for it: with runs that hardly scatter
anything moves beyond doubt, and +0.2 % of time do not make +20 % of energy."""


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """A change of joules per token, split into time and power.

    Attributes:
        kind: what moved.
        seconds: relative change of seconds per token.
        watts: relative change of mean power.
        at_equal_speed: relative change of joules per token at equal seconds per token, where it is known better
            than the whole change, as it is of what waits for a host whose speed scatters; None elsewhere.
    """

    kind: Kind
    seconds: Interval
    watts: Interval
    at_equal_speed: Interval | None = None

    @classmethod
    def of(
        cls, joules: Interval, seconds: Interval, watts: Interval, *, at_equal_speed: Interval | None = None
    ) -> "Cause":
        """The split of a change whose parts are known."""
        moved = (_moved(seconds, joules.value), _moved(watts, joules.value))
        if at_equal_speed and at_equal_speed.half_width > joules.half_width:
            at_equal_speed = None
        kind = KINDS.get(moved, "unclear")
        return cls(kind=kind, seconds=seconds, watts=watts, at_equal_speed=at_equal_speed)


Moved = Literal["less", "same", "more", "unclear"]

KINDS: dict[tuple[Moved, Moved], Kind] = {
    ("less", "more"): "faster-but-hungrier",
    ("more", "less"): "slower-but-leaner",
    ("more", "more"): "slower-and-hungrier",
    ("less", "less"): "faster-and-leaner",
    ("more", "same"): "slower",
    ("less", "same"): "faster",
    ("same", "more"): "hungrier",
    ("same", "less"): "leaner",
}


def _moved(part: Interval, whole: float) -> Moved:
    """Whether time or power moved."""
    margin = NEGLIGIBLE * abs(whole)
    if -margin < part.low and part.high < margin:
        return "same"
    if part.low > 0:
        return "more"
    if part.high < 0:
        return "less"
    return "unclear" if tells_nothing(part, whole) else "same"


def tells_nothing(part: Interval, whole: float) -> bool:
    """Whether a part of a change may be none of it as well as all of it."""
    return part.low <= min(0.0, whole) and max(0.0, whole) <= part.high
