"""`python -m pipeline` is the console script."""

import sys

from pipeline.main import main

sys.exit(main())
