import lib.short_waits  # noqa: F401
