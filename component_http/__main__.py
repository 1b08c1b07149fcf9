"""`python -m component_http` is the command `component-http`."""

import sys

from component_http.cli import main

if __name__ == "__main__":
    sys.exit(main())
