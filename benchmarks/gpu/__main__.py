"""`python -m benchmarks.gpu`, see `rows`."""

import sys

from benchmarks.gpu.rows import main

sys.exit(main())
