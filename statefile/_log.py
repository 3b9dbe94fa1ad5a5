"""What there is to say, on the logger `statefile`. `logging` is loaded when there is something: it costs more than a lock."""

from __future__ import annotations


def info(text: str, *facts: object) -> None:
    """What an operator would want to know, though all is well."""
    import logging  # noqa: PLC0415  # see above

    logging.getLogger("statefile").info(text, *facts)


def warning(text: str, *facts: object) -> None:
    """What went wrong and was mended, or left."""
    import logging  # noqa: PLC0415  # see above

    logging.getLogger("statefile").warning(text, *facts)
