"""``python -m fd_flower.cli`` is ``fd-flower``."""

import sys

from fd_flower.cli.app import main

sys.exit(main())
