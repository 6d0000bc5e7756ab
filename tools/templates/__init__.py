"""The pages that the tools write, and the scripts in them."""

from pathlib import Path


def load_template(name):
    """A page to be filled with values. Everything in them is escaped, because a corpus may hold HTML."""
    # Imported here, so that main can say in one line that it is not installed.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template(name)
