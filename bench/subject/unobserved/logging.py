"""The handler of the service's lines, which is not there."""


class Lines:
    """What the doctor looks for."""
