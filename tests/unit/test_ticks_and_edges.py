import math

import pytest

from pytest_llm_energy.metering.edges import Edges, Tick, energy
from pytest_llm_energy.metering.sensor import SENSORS, sensor_of
from pytest_llm_energy.metering.ticks import OddTicksError, TickGrid, grid_from

H200 = SENSORS["h200"]


def decaying(tau: float, *, excess: float = 40.0, idle: float = 120.0, ended: float = 0.537) -> Edges:
    """Ticks around half a second of 400 W, after which power falls to idle with a time constant."""

    def joules(moment: float) -> float:
        busy = idle * (moment + 1) if moment < 0 else idle + 400 * min(moment, ended)
        after = max(0.0, moment - ended)
        return busy + idle * after + excess * tau * -math.expm1(-after / tau)

    def tick(moment: float) -> Tick:
        return Tick(moment, joules(moment))

    return Edges((tick(-0.25), tick(-0.05)), (tick(0.65), tick(0.75), tick(0.85)))


@pytest.mark.parametrize("tau", [0.15, 0.25, 0.4])
def test_a_tail_that_decays_slowly_is_taken_off_exactly(tau: float) -> None:
    found = energy(decaying(tau), 0.0, 0.537)
    assert found.joules == pytest.approx(400 * 0.537, abs=0.02)


@pytest.mark.parametrize("tau", [0.02, 0.05, 0.08])
def test_a_tail_that_decays_fast_counts_as_work_at_most(tau: float) -> None:
    found = energy(decaying(tau), 0.0, 0.537)
    assert -0.6 < found.joules - 400 * 0.537 < 40 * tau


def test_no_tail_adds_nothing() -> None:
    found = energy(decaying(0.1, excess=0.0), 0.0, 0.537)
    assert found.joules == pytest.approx(400 * 0.537, abs=1e-6)
    assert found.idle_watts == pytest.approx(120)


def test_a_sensor_counts_all_of_a_load_on_average_over_its_phases() -> None:
    for length in (0.04, 0.25, 1.003):
        counted = [H200.counted(n / 500, n / 500 + length, 0.0) for n in range(50)]
        assert sum(counted) / len(counted) == pytest.approx(length, rel=1e-3)
    assert max(H200.counted(n / 500, n / 500 + 0.25, 0.0) for n in range(50)) > 0.252


def test_what_a_sensor_counts_too_much_is_taken_off() -> None:
    started, ended = 0.057, 0.307
    counted = H200.counted(started, ended, 0.0)
    total = 100 * 0.9 + 500 * counted  # 100 W idle from -0.4 to 0.5, and 500 W more as the sensor counts them
    tail = (Tick(0.5, total), Tick(0.6, total + 10))
    edges = Edges((Tick(-0.6, -20.0), Tick(-0.4, 0.0)), tail, H200)
    assert energy(edges, started, ended).joules == pytest.approx(600 * 0.25, rel=1e-9)
    unknown = Edges(edges.idle, tail, None)
    assert energy(unknown, started, ended).uncertainty > 1.3 * energy(edges, started, ended).uncertainty


def test_only_models_that_were_looked_at_have_a_known_sensor() -> None:
    assert sensor_of("NVIDIA H200") is H200
    assert sensor_of("NVIDIA A100-SXM4-80GB") is None


def test_a_grid_withstands_a_late_observation_and_refuses_odd_ticks() -> None:
    seen = [(0.1 * n + 0.043, 0.1 * n + 0.047) for n in range(5)]
    seen[2] = (0.243, 0.262)
    assert grid_from(seen, now=1.0).before(0.399) == pytest.approx(0.345, abs=0.001)
    with pytest.raises(OddTicksError, match="ticks every 20 ms, not 100"):
        grid_from([(0.02 * n, 0.02 * n + 0.003) for n in range(5)], now=1.0)


def test_a_read_too_close_to_a_tick_saw_neither_side_for_sure() -> None:
    grid = TickGrid(phase=0.0, found=0.0)
    assert grid.seen_by(0.528, 0.531) == pytest.approx(0.5)
    assert grid.seen_by(0.503, 0.506) is None
    assert grid.seen_by(0.592, 0.597) is None
