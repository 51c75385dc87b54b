"""``python -m onecycle`` is the command ``onecycle``."""

from .cli import main

if __name__ == "__main__":
    main()
