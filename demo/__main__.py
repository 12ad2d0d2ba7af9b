"""`python -m demo`, which `make demo` runs."""

import sys

from demo.cli import main

if __name__ == "__main__":
    sys.exit(main())
