"""``python -m fimsym`` is the same as ``fimsym``."""

from fimsym.cli import main

if __name__ == "__main__":
    main()
