"""``python -m topgraft`` is the command ``topgraft``."""

from topgraft.cli.main import entry

if __name__ == "__main__":
    entry()
