"""Write a synthetic trace, the same for the same number of requests, over one or more files.

python -m benchmarks.trace_making REQUESTS FILE...
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

CHUNK = 1_000_000
MILLISECONDS = 25
"""Between requests: as many a day as Azure's conversations of 2024."""


def main() -> None:
    """Write each file its share of the requests."""
    requests, paths = int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    if len(paths) == 1 and paths[0].suffix == ".parquet":
        pl.concat(list(_chunks(requests))).write_parquet(paths[0], row_group_size=CHUNK)
        return
    place, ends = 0, [requests * (n + 1) // len(paths) for n in range(len(paths))]
    chunks = _chunks(requests)
    left = pl.DataFrame()
    for path, end in zip(paths, ends, strict=True):
        with path.open("wb") as file:
            begun = False
            while place < end:
                if not len(left):
                    left = next(chunks)
                part, left = left.head(end - place), left.slice(end - place)
                part.write_csv(file, include_header=not begun, datetime_format="%Y-%m-%d %H:%M:%S%.6f")
                place, begun = place + len(part), True


def _chunks(requests: int) -> Iterator[pl.DataFrame]:
    generator = np.random.default_rng(2504)
    for begin in range(0, requests, CHUNK):
        size = min(CHUNK, requests - begin)
        yield pl.DataFrame(
            {
                "TIMESTAMP": pl.Series(np.arange(begin, begin + size) * MILLISECONDS).cast(pl.Datetime("ms")),
                "ContextTokens": _lengths(generator, size, middle=1000, spread=1.1, longest=100_000),
                "GeneratedTokens": _lengths(generator, size, middle=90, spread=1.0, longest=8_192),
            }
        )


def _lengths(generator: np.random.Generator, size: int, *, middle: int, spread: float, longest: int) -> pl.Series:
    drawn = generator.lognormal(np.log(middle), spread, size)
    return pl.Series(np.clip(drawn, 1, longest).astype(np.int64))


if __name__ == "__main__":
    main()
