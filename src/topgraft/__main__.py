"""``python -m topgraft`` is the command ``topgraft``."""

from .cli import entry

if __name__ == "__main__":
    entry()
