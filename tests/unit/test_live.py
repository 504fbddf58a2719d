import io

from pytest_llm_energy.reporting.live import LogLines, StatusLine


class Terminal:
    """A terminal of 40 columns with the cursor at column 5."""

    fullwidth = 40
    width_of_current_line = 5

    def __init__(self) -> None:
        self._file = io.StringIO()

    def write(self, msg: str, *, flush: bool = False) -> None:
        raise AssertionError("pytest's idea of the cursor must not move")


def test_the_status_line_comes_back_to_where_pytest_was() -> None:
    terminal = Terminal()
    line = StatusLine(terminal)
    line.say("batching [8]", "measuring alone (run 2 of 3) " + "x" * 60)
    written = terminal._file.getvalue()
    assert written.startswith("\n\r\x1b[Kbatching [8]: measuring alone (run 2")
    assert written.endswith("\x1b[1A\r\x1b[5C")
    assert "x" * 20 not in written
    line.clear()
    assert terminal._file.getvalue().endswith("\n\r\x1b[K\x1b[1A\r\x1b[5C")


def test_a_log_gets_a_line_a_stage_not_one_a_run() -> None:
    lines: list[str] = []
    live = LogLines(lines.append, prefix="[gw0] ")
    for what in ("waiting for 1 of 4 device(s): pid 12", "waiting for 1 of 4 device(s): pid 13"):
        live.say("batching", what)
    for what in ("loading alone: x", "loading alone: y", "warming up alone (batch 1)", "measuring a (run 1 of 3)"):
        live.say("batching", what)
    live.say("batching", "measuring a (run 2 of 3)")
    assert lines.pop(0) == "[gw0] batching: waiting for 1 of 4 device(s): pid 12"
    assert lines == ["[gw0] batching: loading alone: x", "[gw0] batching: measuring a (run 1 of 3)"]


def test_a_log_that_was_silent_for_long_gets_a_line_of_whatever_goes_on() -> None:
    lines: list[str] = []
    now = [0.0]
    live = LogLines(lines.append, clock=lambda: now[0])
    for batch, now[0] in ((1, 1.0), (2, 40.0), (3, 60.0), (4, 75.0)):
        live.say("traces", f"warming up long (batch {batch})")
    assert lines == [f"traces: warming up long (batch {batch})" for batch in (2, 4)]
