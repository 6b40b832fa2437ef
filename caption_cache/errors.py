"""The error a user can mend: both packages raise it, both command lines print it."""


class InputError(Exception):
    """Input that cannot be used, said in one sentence.

    The sentence names the file, the line or the key, and the mend. Command lines print it
    without a traceback and end with exit code 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of what a library's error says, without its full stop, for such a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
