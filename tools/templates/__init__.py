"""The pages that the tools write, and the scripts in them."""


def load_template(name):
    """A page to be filled with values. Everything in them is escaped, because a corpus may hold HTML."""
    # Imported here, so that main can say in one line that it is not installed.
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("tools"), autoescape=True, undefined=StrictUndefined).get_template(name)
