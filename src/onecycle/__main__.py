"""``python -m onecycle`` is the command ``onecycle``."""

from .commands.app import main

if __name__ == "__main__":
    main()
