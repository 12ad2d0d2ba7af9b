"""`python -m loadgen` is `nexmark-loadgen`."""

from loadgen.cli import main

if __name__ == "__main__":
    main()
