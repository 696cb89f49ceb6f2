"""The tests. Their arrays are small, so each process uses one thread: for two processes on two cores this is several times faster than more."""

import os

# numpy and torch read these variables when they are imported, which is later
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")
