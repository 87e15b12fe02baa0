"""``python -m pipesim``."""

from __future__ import annotations

import sys

from pipesim.cli import main

sys.exit(main())
