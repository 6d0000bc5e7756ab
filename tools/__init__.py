"""What a user may want beyond the six scripts."""

import lib.machine.startup  # noqa: F401  It is first, as in the scripts.
