"""The tests. Their arrays are small: one thread each, for two processes on two cores, is several times as fast as more."""

import os

for _library in ("OMP", "OPENBLAS", "MKL"):  # read when numpy and torch are imported, which is later
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
