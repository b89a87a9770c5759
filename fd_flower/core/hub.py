"""What cannot be had from the Hugging Face hub."""

from fd_flower.core.errors import InvalidInputError


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
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return InvalidInputError(
        f"{what} cannot be had from the Hugging Face hub ({reason}): check name and network, or give {instead}"
    )
