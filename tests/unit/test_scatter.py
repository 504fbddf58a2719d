"""Variances by degrees of freedom, and what many tell of one more."""

import math
import random

import pytest

from pytest_llm_energy.verdicts.scatter import Group, Spread, likeliest, typical


def test_the_fit_of_variances_finds_what_they_were_drawn_with() -> None:
    generator = random.Random(1)
    variances = []
    for _ in range(3000):
        true = 0.01**2 / (generator.gammavariate(2.0, 2) / 4)
        variances.append(Spread(true * generator.gammavariate(1.0, 2) / 2, 2))
    found = typical(variances, Spread(1.0, 100.0), worth=1)
    assert math.sqrt(found.variance) == pytest.approx(0.01, rel=0.05)
    assert found.freedom == pytest.approx(4, rel=0.2)
    assumed = typical([], Spread(0.003**2, 1.5), worth=1)
    assert assumed == pytest.approx(Spread(0.003**2, 1.5))


@pytest.mark.parametrize("sd", [0.0, 0.002, 0.01])
def test_the_likeliest_variance_is_that_of_means_without_what_explains_some_of_it(sd: float) -> None:
    generator = random.Random(1)
    groups = []
    for _ in range(400):
        windows = generator.choice([0.001, 0.003, 0.01])
        means = [generator.gauss(0, math.hypot(sd, windows)) for _ in range(3)]
        mean = sum(means) / 3
        explained = windows**2 * generator.gammavariate(3.0, 2) / 6
        groups.append(Group(Spread(sum((x - mean) ** 2 for x in means) / 2, 2), Spread(explained, 6)))
    assert math.sqrt(likeliest(groups)) == pytest.approx(sd, rel=0.12, abs=0.0005)
