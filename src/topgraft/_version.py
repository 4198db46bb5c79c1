"""The version, alone, so that every module can read it without importing the package's verbs."""

__version__ = "0.1.0"
