"""Let a thread that waits for another one sleep after some microseconds. It must be imported before torch.

GNU OpenMP lets it compute in circles for milliseconds. Where something else is at work, the other thread gets no core
in that time, and training takes several times as long. python -m tools.bench --busy measures it.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
