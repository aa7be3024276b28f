"""The service's own loggers, which nobody else's configuration of logging reaches.

A library may call dictConfig, fileConfig, basicConfig(force=True) or logging.disable, or clear the
root's handlers. All of these change the loggers of `logging.root.manager`: of libraries. The
loggers of the service and of gunicorn, and those that LOG_LEVELS names, have a root and a manager
of their own; `logging.getLogger` returns them by their names as always. What is configured for
one of them by its name holds, as with pytest's `caplog.set_level("DEBUG", logger="parcels")`.

A library's own line is written as the library's loggers are configured; where nobody has left the
root a handler, it comes to ours.
"""

import logging
import sys

root = logging.RootLogger(logging.INFO)
root.parent = logging.root
root.manager = manager = logging.Manager(root)

_libraries = logging.root.manager
_get_library_logger = _libraries.getLogger
_first_words: set[str] = set()


def own_logger(name: str | None = None) -> logging.Logger:
    """A logger of the service's own, as are then all whose names begin with the same word."""
    if not name or name == root.name:
        return root
    _take_over(name.partition(".")[0])
    return manager.getLogger(name)


def _take_over(word: str) -> None:
    if word in _first_words:
        return
    _first_words.add(word)
    for name in sorted(_libraries.loggerDict):  # parents come first
        if name.partition(".")[0] == word:
            logger = _libraries.loggerDict.pop(name)
            if isinstance(logger, logging.Logger):
                logger.manager = manager
                logger.parent = own_logger(name.rpartition(".")[0])
                logger.disabled = False
                manager.loggerDict[name] = logger
    root.setLevel(root.level)  # empties their caches of enabled levels


def _get_logger(name: str) -> logging.Logger:
    own = isinstance(name, str) and name.partition(".")[0] in _first_words
    return manager.getLogger(name) if own else _get_library_logger(name)


_libraries.getLogger = _get_logger  # type: ignore[method-assign]
for _word in (__name__.partition(".")[0], "request", "gunicorn", "py"):
    _take_over(_word)


class _OthersOfRoot(logging.Handler):
    """The handlers that others have put on the root, such as pytest's."""

    def handle(self, record: logging.LogRecord) -> bool:
        for handler in logging.root.handlers:
            if (
                handler not in root.handlers
                and not _writes_to_console(handler)
                and record.levelno >= handler.level
            ):
                handler.handle(record)
        return True


def send_lines_to(handler: logging.Handler, level: str) -> None:
    """Give a handler the lines of all loggers, and the console to it alone."""
    root.handlers = [handler, _OthersOfRoot()]
    root.propagate = False
    others = [other for other in logging.root.handlers if not _writes_to_console(other)]
    logging.root.handlers = [handler, *others]
    logging.lastResort = handler
    for each in (root, logging.root):
        each.setLevel(level)


def _writes_to_console(handler: logging.Handler) -> bool:
    streams = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, logging.StreamHandler) and handler.stream in streams
