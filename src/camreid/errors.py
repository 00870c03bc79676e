"""What a user got wrong, said in one paragraph: what was found, what was expected, what to type."""


class InputError(ValueError):
    """Bad input. The commands print its message alone and exit with a code that is not 0."""


class MissingDataset(InputError, FileNotFoundError):
    """There are no images where they were looked for."""


class HeadMismatch(InputError):
    """A classifier head and the people it is to be trained on do not fit together."""


class PixelRangeError(InputError):
    """Pixels are not in the range that the model was told to expect."""


class NoValidQuery(InputError):
    """No query has a match in the gallery under the protocol, so there is nothing to measure."""
