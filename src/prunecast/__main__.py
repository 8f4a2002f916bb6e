"""`python -m prunecast`: the command line."""

import sys

from prunecast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
