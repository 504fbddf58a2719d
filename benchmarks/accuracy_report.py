"""Results of ``meter_accuracy``: what was measured, and the tables and the plot made of it."""

import math
import statistics
from collections.abc import Iterator
from pathlib import Path

import msgspec
from tabulate import tabulate

OURS = "pytest-llm-energy"


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One window of one method.

    Attributes:
        at: when the work in it began, in monotonic seconds.
        joules: what the method said.
        uncertainty: the standard deviation it stated, None if it stated none.
    """

    at: float
    joules: float
    uncertainty: float | None = None


class Pass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All methods on bursts of one kind and length.

    Attributes:
        work: kind of the bursts.
        seconds: their length.
        spans_sd: standard deviation of their lengths.
        truths: bursts for the truth, each by the counter less the measured gaps.
        methods: windows by method.
    """

    work: str
    seconds: float
    spans_sd: float
    truths: tuple[Window, ...]
    methods: dict[str, tuple[Window, ...]]

    @property
    def truth(self) -> float:
        """Joules of a burst: the mean of those for the truth."""
        return statistics.fmean(window.joules for window in self.truths)

    @property
    def truth_sd(self) -> float:
        """Standard deviation of that mean."""
        return statistics.stdev(window.joules for window in self.truths) / math.sqrt(len(self.truths))

    @property
    def counts(self) -> str:
        """Windows of ours, and of each other method."""
        ours, *others = (len(windows) for windows in self.methods.values())
        return f"{ours}, {min(others, default=0)} each"

    def errors(self, method: str) -> list[float]:
        """Relative errors of a method's windows."""
        return [window.joules / self.truth - 1 for window in self.methods[method]]

    def rmse(self, method: str) -> float:
        """Root mean square of one window's relative error."""
        return math.sqrt(statistics.fmean(error**2 for error in self.errors(method)))

    def bias(self, method: str) -> float:
        """Mean relative error."""
        return statistics.fmean(self.errors(method))

    def sigmas(self, method: str) -> list[float]:
        """Errors in units of their stated standard deviations."""
        windows = self.methods[method]
        return [(window.joules - self.truth) / window.uncertainty for window in windows if window.uncertainty]


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run."""

    when: str
    gpu: str
    driver: str
    cuda: str
    versions: str
    passes: tuple[Pass, ...]


def read(path: Path) -> Report:
    """A report that was written as JSON."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def conditions(report: Report) -> str:
    """On what, and when."""
    windows = sum(len(each.methods[OURS]) for each in report.passes)
    return f"{report.gpu}, driver {report.driver}, {report.when[:10]}, {windows} windows of ours; {report.versions}"


def text_lines(report: Report, *, style: str = "simple") -> Iterator[str]:
    """The tables: one-window rmse and bias per meter, and the coverage of our intervals."""
    methods = list(report.passes[0].methods)
    headers = ["work", "burst", "truth", "its sd", "windows", *methods]
    for quantity, says in ((Pass.rmse, "rmse"), (Pass.bias, "bias")):
        yield f"{says} of one window, % of the true energy"
        yield ""
        rows = []
        for each in report.passes:
            truth = (f"{each.truth:.2f} J", f"{each.truth_sd / each.truth:.2%}", each.counts)
            sign = "+" if says == "bias" else ""
            shares = (f"{quantity(each, method) * 100:{sign}.2f}" for method in methods)
            rows.append([each.work, f"{each.seconds * 1000:.0f} ms", *truth, *shares])
        yield from tabulate(rows, headers, tablefmt=style, disable_numparse=True).splitlines()
        yield ""
    sigmas = [sigma for each in report.passes for sigma in each.sigmas(OURS)]
    inside = sum(abs(sigma) <= 2 for sigma in sigmas)
    yield f"2-sigma intervals of ours that hold the truth: {inside} of {len(sigmas)} ({inside / len(sigmas):.1%})"


def plot(report: Report, path: Path) -> None:
    """One-window rmse over burst length, a line per meter."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    works = list(dict.fromkeys(each.work for each in report.passes))
    figure, axes = pyplot.subplots(1, len(works), figsize=(6 * len(works), 4.5), sharey=True, squeeze=False)
    for axis, work in zip(axes[0], works, strict=True):
        passes = [each for each in report.passes if each.work == work]
        for method in passes[0].methods:
            axis.plot(
                [each.seconds for each in passes],
                [each.rmse(method) * 100 for each in passes],
                marker="o",
                linewidth=2.5 if method == OURS else 1.2,
                label=method,
            )
        axis.set(xscale="log", yscale="log", title=work, xlabel="burst, seconds")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("rmse of one window, % of the true energy")
    axes[0][-1].legend(fontsize=8)
    figure.suptitle(f"{report.gpu}, driver {report.driver}, {report.when[:10]}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
