import os
import statistics
import time
from pathlib import Path

import pytest

from pytest_llm_energy.metering.host_speed import (
    EARLY_SCAN_SECONDS,
    LEAST_PROBES,
    PERIOD_SECONDS,
    SCAN_SECONDS,
    TICKS,
    HostSpeed,
    fixed_loop,
    move_here,
)
from pytest_llm_energy.metering.host_speed import Host as Seen
from pytest_llm_energy.metering.simulated import VirtualClock

ENGINE, HELPER, OTHER = 100, 101, 200

SECONDS = {core: core * 1e-4 for core in range(1, 10)}
"""What the loop takes on each core of the host: one can tell from it where it ran."""


class Host:
    """A tree of /proc, cores of different speeds, and time that passes when it is told to."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.clock = VirtualClock()
        self.moves: list[int] = []
        self.ran: list[int] = []
        self.forbidden: set[int] = set()
        self.engine = [ENGINE]

    def thread(self, tid: int, *, pid: int = ENGINE, ticks: int, core: int, name: str = "python") -> None:
        """Let a thread be, or be changed; its time is that of user and kernel together."""
        fields = ["0"] * 52
        fields[:2] = [str(tid), f"({name})"]
        fields[2] = "R"
        fields[13], fields[14], fields[38] = str(ticks // 3), str(ticks - ticks // 3), str(core)
        file = self.file(tid, pid)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(" ".join(fields) + "\n")

    def file(self, tid: int, pid: int = ENGINE) -> Path:
        return self.proc / str(pid) / "task" / str(tid) / "stat"

    def process(self, ticks: int, pid: int = ENGINE) -> None:
        """Let all threads of a process have run for so long, those that have ended included."""
        fields = ["0"] * 52
        fields[:2], fields[13], fields[14] = [str(pid), "(python)"], "3", str(ticks - 3)
        (self.proc / str(pid)).mkdir(parents=True, exist_ok=True)
        (self.proc / str(pid) / "stat").write_text(" ".join(fields))

    def end(self, tid: int) -> None:
        """Let a thread end."""
        self.file(tid).unlink()
        self.file(tid).parent.rmdir()

    def move(self, core: int) -> None:
        if core in self.forbidden:
            raise OSError(22, "Invalid argument")
        self.moves.append(core)

    def loop(self) -> float:
        self.ran.append(self.moves[-1])
        return SECONDS[self.moves[-1]]

    def speed(self, *, threads: int = 1) -> HostSpeed:
        return HostSpeed(
            lambda: self.engine,
            self.clock,
            threads=threads,
            proc=self.proc,
            loop=self.loop,
            move=self.move,
            cores=lambda: 8,
        )


def seconds(seen: Seen | None) -> float | None:
    return seen.loop_seconds if seen else None


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """An engine of two threads: one has worked a lot and rests, the other is about to work."""
    host = Host(tmp_path)
    host.thread(ENGINE, ticks=10, core=3)
    host.thread(HELPER, ticks=9000, core=5)
    return host


def following(host: Host, *, threads: int = 1) -> HostSpeed:
    """A window in which the engine's busiest thread was found on core 3 a moment ago."""
    speed = host.speed(threads=threads)
    speed.begin()
    host.thread(ENGINE, ticks=30, core=3)
    host.thread(HELPER, ticks=9001, core=5)
    host.clock.sleep(1.5 * EARLY_SCAN_SECONDS)
    assert 3 in host.moves
    return speed


def test_the_loop_is_timed_on_the_core_of_the_thread_that_works_most_now(host: Host) -> None:
    speed = following(host)
    host.clock.sleep(0.5)
    assert seconds(speed.end()) == pytest.approx(SECONDS[3])
    assert host.moves == [3]


def test_a_thread_that_goes_to_another_core_is_followed_there(host: Host) -> None:
    speed = following(host)
    host.thread(ENGINE, ticks=40, core=4)
    host.clock.sleep(0.5)
    assert host.moves == [3, 4]
    assert seconds(speed.end()) == pytest.approx(statistics.harmonic_mean([SECONDS[core] for core in host.ran]))
    assert set(host.ran) == {3, 4}


def test_two_threads_are_followed_in_turn(host: Host) -> None:
    speed = following(host, threads=2)
    host.clock.sleep(0.5)
    assert seconds(speed.end()) == pytest.approx(statistics.harmonic_mean([SECONDS[core] for core in host.ran]))
    assert {*zip(host.ran, host.ran[1:], strict=False)} == {(3, 5), (5, 3)}


def test_a_thread_that_becomes_the_busiest_is_followed_from_the_next_scan_on(host: Host) -> None:
    speed = following(host)
    host.thread(HELPER, ticks=9100, core=5)
    host.clock.sleep(SCAN_SECONDS - EARLY_SCAN_SECONDS)
    assert host.moves == [3]
    host.clock.sleep(2 * EARLY_SCAN_SECONDS)
    assert host.moves == [3, 5]
    speed.end()


def test_a_thread_that_began_since_the_last_scan_may_be_the_busiest(host: Host) -> None:
    speed = following(host)
    host.thread(ENGINE, ticks=40, core=3)
    host.thread(102, ticks=50, core=6)
    host.clock.sleep(SCAN_SECONDS + EARLY_SCAN_SECONDS)
    assert host.moves == [3, 6]
    speed.end()


def test_threads_of_all_the_engines_processes_count_and_no_others(host: Host) -> None:
    host.engine = [ENGINE, OTHER]
    for pid in (OTHER, 300):
        host.thread(pid, pid=pid, ticks=5, core=pid // 100)
    speed = host.speed()
    speed.begin()
    host.thread(OTHER, pid=OTHER, ticks=25, core=2)
    host.thread(300, pid=300, ticks=99, core=9)
    host.clock.sleep(0.5)
    assert seconds(speed.end()) == pytest.approx(SECONDS[2])


def test_known_threads_are_followed_from_the_start_of_the_next_window(host: Host) -> None:
    speed = following(host)
    speed.end()
    speed.begin()
    host.clock.sleep((LEAST_PROBES + 0.5) * PERIOD_SECONDS)
    assert seconds(speed.end()) == pytest.approx(SECONDS[3])
    assert host.moves == [3, 3]  # each window's thread begins on a core of the scheduler's choice


def test_a_window_soon_sees_that_another_thread_works_than_in_the_one_before(host: Host) -> None:
    speed = following(host)
    speed.end()
    speed.begin()
    host.thread(HELPER, ticks=9100, core=5)
    host.clock.sleep(1.5 * EARLY_SCAN_SECONDS)
    assert host.moves == [3, 3, 5]
    speed.end()


def test_what_works_between_windows_is_not_followed(host: Host) -> None:
    speed = following(host)
    speed.end()
    host.thread(HELPER, ticks=20_000, core=5)
    speed.begin()
    host.thread(ENGINE, ticks=40, core=3)
    host.clock.sleep(1.0)
    assert seconds(speed.end()) == pytest.approx(SECONDS[3])


def test_too_few_probes_tell_nothing(host: Host) -> None:
    speed = following(host)
    speed.end()
    host.ran.clear()
    speed.begin()
    host.clock.sleep((LEAST_PROBES - 0.5) * PERIOD_SECONDS)
    assert speed.end() is None
    assert len(host.ran) == LEAST_PROBES - 1


def test_a_thread_that_has_gone_is_replaced_without_waiting_for_the_next_scan(host: Host) -> None:
    speed = following(host)
    host.end(ENGINE)
    host.thread(HELPER, ticks=9020, core=5)
    host.clock.sleep(2 * EARLY_SCAN_SECONDS)
    assert host.moves == [3, 5]
    host.thread(102, ticks=50, core=6)
    host.clock.sleep(SCAN_SECONDS / 2)
    assert host.moves == [3, 5]  # scans are as rare again as before
    speed.end()


def test_a_thread_that_has_gone_is_forgotten_also_when_nobody_else_works(host: Host) -> None:
    speed = following(host, threads=2)
    host.end(ENGINE)
    host.clock.sleep(2 * EARLY_SCAN_SECONDS)
    host.ran.clear()
    host.clock.sleep(0.5)
    assert {*host.ran} == {5}
    assert len(host.ran) == pytest.approx(0.5 / PERIOD_SECONDS, abs=1)  # no turn is lost on it
    speed.end()


def test_processes_that_end_and_files_that_say_nothing_are_passed_over(host: Host) -> None:
    host.engine = [998, 999, ENGINE]
    (host.proc / "999" / "task" / "999").mkdir(parents=True)
    for tid, text in ((103, ""), (104, "104 (python) R 1"), (105, "105 (python) R" + " x" * 49)):
        host.thread(tid, ticks=1, core=1)
        host.file(tid).write_text(text)
    speed = following(host)
    host.clock.sleep(0.5)
    assert seconds(speed.end()) == pytest.approx(SECONDS[3])


@pytest.mark.parametrize("text", ["", "100 (python) R 1", "100 (python) R" + " x" * 49])
def test_a_followed_thread_whose_file_says_nothing_for_a_while_is_not_probed_meanwhile(
    host: Host, text: str
) -> None:
    speed = following(host)
    host.ran.clear()
    host.file(ENGINE).write_text(text)
    host.clock.sleep(PERIOD_SECONDS)
    assert host.ran == []
    host.thread(ENGINE, ticks=40, core=4)
    host.clock.sleep(0.5)
    assert {*host.ran} == {4}
    speed.end()


@pytest.mark.parametrize("name", ["VLLM::EngineCore", "a b c", "tricky) R 7 (", "() 1 2 3"])
def test_names_of_threads_may_hold_anything(host: Host, name: str) -> None:
    speed = host.speed()
    host.thread(ENGINE, ticks=10, core=3, name=name)
    speed.begin()
    host.thread(ENGINE, ticks=30, core=3, name=name)
    host.clock.sleep(0.5)
    assert seconds(speed.end()) == pytest.approx(SECONDS[3])


def test_probes_of_a_core_that_is_not_ours_to_use_are_left_out(host: Host) -> None:
    speed = following(host)
    host.forbidden = {4}
    before = len(host.ran)
    host.thread(ENGINE, ticks=40, core=4)
    host.clock.sleep(0.5)
    assert len(host.ran) == before
    host.thread(ENGINE, ticks=50, core=3)
    host.clock.sleep(0.5)
    assert host.moves == [3]
    assert seconds(speed.end()) == pytest.approx(SECONDS[3])


def test_an_engine_on_cores_that_are_not_ours_to_use_tells_nothing(host: Host) -> None:
    host.forbidden = {3}
    speed = host.speed()
    speed.begin()
    host.thread(ENGINE, ticks=30, core=3)
    host.clock.sleep(1.0)
    assert speed.end() is None


def test_while_nobody_works_those_who_did_are_followed(host: Host) -> None:
    speed = following(host)
    host.clock.sleep(3 * SCAN_SECONDS)
    speed.end()
    host.ran.clear()
    speed.begin()
    host.clock.sleep(3 * SCAN_SECONDS)
    assert seconds(speed.end()) == pytest.approx(SECONDS[3])
    assert len(host.ran) == pytest.approx(3 * SCAN_SECONDS / PERIOD_SECONDS, abs=1)


def test_an_engine_that_rests_is_found_soon_after_it_begins_to_work(host: Host) -> None:
    speed = host.speed()
    speed.begin()
    host.clock.sleep(1.5 * EARLY_SCAN_SECONDS)
    host.thread(ENGINE, ticks=30, core=3)
    host.clock.sleep(EARLY_SCAN_SECONDS)
    assert host.moves == [3]
    speed.end()


def test_an_engine_that_never_worked_tells_nothing(host: Host) -> None:
    speed = host.speed()
    speed.begin()
    host.clock.sleep(3 * SCAN_SECONDS)
    assert speed.end() is None
    assert host.moves == []


def test_another_engine_is_not_told_by_the_one_before(host: Host) -> None:
    speed = following(host)
    speed.end()
    host.engine = [OTHER]
    host.thread(OTHER, pid=OTHER, ticks=5, core=2)
    speed.begin()
    host.clock.sleep(1.0)
    assert speed.end() is None


def test_a_host_without_proc_tells_nothing(tmp_path: Path) -> None:
    host = Host(tmp_path / "proc")
    speed = host.speed()
    speed.begin()
    host.clock.sleep(3 * SCAN_SECONDS)
    assert speed.end() is None
    assert host.moves == []


def test_a_platform_that_moves_no_threads_tells_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    speed = HostSpeed(lambda: host.engine, host.clock, proc=host.proc, loop=lambda: 1e-4, move=move_here)
    speed.begin()
    host.thread(ENGINE, ticks=30, core=3)
    host.clock.sleep(1.0)
    assert speed.end() is None


def test_a_window_that_was_not_ended_is_given_up_for_the_next(host: Host) -> None:
    speed = following(host)
    host.clock.sleep(0.5)
    host.thread(ENGINE, ticks=40, core=4)
    speed.begin()
    host.ran.clear()
    host.clock.sleep(0.5)
    assert len(host.ran) == pytest.approx(0.5 / PERIOD_SECONDS, abs=1)  # the one before is not probing on
    assert seconds(speed.end()) == pytest.approx(SECONDS[4])


def test_no_window_tells_nothing_and_nothing_runs_after_one(host: Host) -> None:
    assert host.speed().end() is None
    speed = following(host)
    host.clock.sleep(0.5)
    assert speed.end() is not None
    host.ran.clear()
    host.thread(ENGINE, ticks=90, core=4)
    host.clock.sleep(3 * SCAN_SECONDS)
    assert host.ran == []
    assert speed.end() is None


def test_the_loop_is_timed_by_the_processor_time_of_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "thread_time_ns", iter([5_000, 95_000]).__next__)
    assert fixed_loop() == pytest.approx(90e-6)


def test_how_many_cores_the_processes_of_the_engine_keep_busy_is_told_of_the_window_alone(host: Host) -> None:
    host.engine = [ENGINE, OTHER]
    host.thread(OTHER, pid=OTHER, ticks=5, core=1)
    host.process(5000)
    host.process(700, OTHER)
    speed = following(host)
    host.process(5000 + 2 * TICKS)
    host.process(700 + TICKS, OTHER)
    host.clock.sleep(2 - 1.5 * EARLY_SCAN_SECONDS)
    seen = speed.end()
    assert seen is not None
    assert seen.busy_cores == pytest.approx(1.5)
    assert seen.cores == 8
