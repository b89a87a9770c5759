"""What cannot be had from the Hugging Face hub."""

from fd_flower.core.errors import InvalidInputError, reason


def unavailable(what: str, error: Exception, instead: str) -> InvalidInputError:
    """Return the error for what cannot be downloaded, whatever goes wrong on the way: the advice is the same.

    Parameters
    ----------
    what : str
        The beginning of a sentence: ``the data set 'mnist'``.
    error : Exception
        What the library of data sets raised, of which the first line is shown.
    instead : str
        What can be given in its place.
    """
    return InvalidInputError(
        f"{what} cannot be had from the Hugging Face hub ({reason(error)}): check name and network, or give {instead}"
    )
