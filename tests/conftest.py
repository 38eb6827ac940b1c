"""One thread a worker: two pytest workers share two cores, and results do not depend on them."""

from __future__ import annotations

import os

# Read when torch is first imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
