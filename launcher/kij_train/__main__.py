"""python -m kij_train"""

import sys

from kij_train.cli import main

sys.exit(main())
