"""A hook of MkDocs: a figure and its spread stay on one line."""


def on_page_markdown(markdown, **_):
    """Put no-break spaces around ±."""
    return markdown.replace(" ± ", "\u00a0±\u00a0")
