"""One tool bins one trace in this process and says what it found, and the most memory it had.

    python -m benchmarks.trace_binners TOOL FILE...

All do the same work, as their users would write it: requests by the paper's bins, and of inputs and outputs mean,
sample standard deviation, median, 99th percentile, least and most.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_llm_energy.workloads.bins import PAPER

INPUT, OUTPUT = "ContextTokens", "GeneratedTokens"

Found = dict[str, Any]
"""``counts``: ``[input, output, requests]`` of each bin; ``input`` and ``output``: the six statistics in order."""


def ours(paths: Sequence[Path]) -> Found:
    from pytest_llm_energy.workloads.traces import read_trace

    histogram = read_trace(paths).histogram
    assert histogram.input is not None
    assert histogram.output is not None
    sides = {
        name: [of.mean, of.std, of.median, of.p99, of.min, of.max]
        for name, of in (("input", histogram.input), ("output", histogram.output))
    }
    return {"counts": [list(count) for count in histogram.counts], **sides}


def pandas(paths: Sequence[Path]) -> Found:
    import pandas as pd

    parts = [
        pd.read_csv(path, usecols=[INPUT, OUTPUT])
        if path.suffix == ".csv"
        else pd.read_parquet(path, columns=[INPUT, OUTPUT])
        for path in paths
    ]
    rows = pd.concat(parts) if len(parts) > 1 else parts[0]
    places = [
        pd.cut(rows[name], [0, *edges], labels=edges)
        for name, edges in ((INPUT, PAPER.input_tokens), (OUTPUT, PAPER.output_tokens))
    ]
    sizes = rows.groupby(places, observed=True).size()
    counts = sorted([int(i), int(o), int(count)] for (i, o), count in sizes.items())

    def of(name: str) -> list[float]:
        column = rows[name]
        return [
            float(value)
            for value in (
                column.mean(),
                column.std(),
                column.median(),
                column.quantile(0.99),
                column.min(),
                column.max(),
            )
        ]

    return {"counts": counts, "input": of(INPUT), "output": of(OUTPUT)}


def duckdb(paths: Sequence[Path]) -> Found:
    import duckdb as db

    read = "read_csv" if paths[0].suffix == ".csv" else "read_parquet"
    table = f"{read}({[str(path) for path in paths]})"

    def edge(name: str, edges: Sequence[int]) -> str:
        return "CASE " + " ".join(f"WHEN {name} <= {edge} THEN {edge}" for edge in edges) + " END"

    statistics = ", ".join(
        f"avg({c}), stddev_samp({c}), median({c}), quantile_cont({c}, 0.99), min({c}), max({c})"
        for c in (INPUT, OUTPUT)
    )
    counts = db.sql(
        f"SELECT {edge(INPUT, PAPER.input_tokens)} AS i, {edge(OUTPUT, PAPER.output_tokens)} AS o, count(*) "
        f"FROM {table} WHERE {INPUT} > 0 AND {OUTPUT} > 0 GROUP BY i, o "
        "HAVING i IS NOT NULL AND o IS NOT NULL ORDER BY i, o"
    ).fetchall()
    values = [float(value) for value in db.sql(f"SELECT {statistics} FROM {table}").fetchall()[0]]
    return {"counts": [list(count) for count in counts], "input": values[:6], "output": values[6:]}


def pyarrow(paths: Sequence[Path]) -> Found:
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import dataset

    kind = "csv" if paths[0].suffix == ".csv" else "parquet"
    files = dataset.dataset([str(path) for path in paths], format=kind)
    rows = files.to_table(columns=[INPUT, OUTPUT])

    def places(name: str, edges: Sequence[int]) -> Any:
        found = pa.scalar(None, pa.int64())
        for edge in reversed(edges):
            found = pc.if_else(pc.less_equal(rows[name], edge), edge, found)
        return pc.if_else(pc.greater(rows[name], 0), found, pa.scalar(None, pa.int64()))

    binned = pa.table({"i": places(INPUT, PAPER.input_tokens), "o": places(OUTPUT, PAPER.output_tokens)})
    sizes = binned.group_by(["i", "o"]).aggregate([([], "count_all")]).to_pylist()
    counts = sorted(
        [row["i"], row["o"], row["count_all"]] for row in sizes if row["i"] is not None and row["o"] is not None
    )

    def of(name: str) -> list[float]:
        column = rows[name]
        low_high = pc.min_max(column).as_py()
        median, p99 = pc.quantile(column, q=[0.5, 0.99]).to_pylist()
        mean, std = pc.mean(column).as_py(), pc.stddev(column, ddof=1).as_py()
        return [mean, std, median, p99, float(low_high["min"]), float(low_high["max"])]

    return {"counts": counts, "input": of(INPUT), "output": of(OUTPUT)}


TOOLS: dict[str, Callable[[Sequence[Path]], Found]] = {
    "pytest-llm-energy": ours,
    "pandas": pandas,
    "duckdb": duckdb,
    "pyarrow": pyarrow,
}


def main() -> None:
    found = TOOLS[sys.argv[1]]([Path(name) for name in sys.argv[2:]])
    status = Path("/proc/self/status").read_text()
    found["peak_bytes"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    found["cpu_seconds"] = time.process_time()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
