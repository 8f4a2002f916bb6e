"""`python -m prunecast`: the command line."""

import sys

from prunecast.cli import main

if __name__ == "__main__":
    sys.exit(main())
