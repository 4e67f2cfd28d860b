"""`python -m scissorhands_hf.cli`, and so `accelerate launch -m scissorhands_hf.cli erase ...`."""

import sys

from .main import main


sys.exit(main())
