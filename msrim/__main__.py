"""``python -m msrim`` is the same as ``msrim``."""

from msrim.cli.main import main

if __name__ == "__main__":
    main()
