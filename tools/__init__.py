import lib.environment  # noqa: F401  It says which library is not installed.
