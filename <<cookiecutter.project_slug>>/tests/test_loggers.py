"""Lines and events of the service go on, whatever anybody else configures of logging."""

import configparser
import logging
import logging.config
import sys
import threading
from collections.abc import Callable

import pytest
from flask import Flask, abort

from <<cookiecutter.__package>>.observability import get_logger

from .conftest import MakeService
from .support import Service, a_process, parsed

PACKAGE = "<<cookiecutter.__package>>"
log = get_logger(__name__)


def by_file() -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(
        "[loggers]\nkeys=root\n[logger_root]\nlevel=CRITICAL\nhandlers=none\n"
        "[handlers]\nkeys=none\n[handler_none]\nclass=NullHandler\n[formatters]\nkeys=\n"
    )
    logging.config.fileConfig(parser)


def by_dictionary() -> None:
    logging.config.dictConfig({"version": 1})


def by_dictionary_that_disables_nothing() -> None:
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})


def by_dictionary_with_a_console() -> None:
    console = {"class": "logging.StreamHandler", "stream": sys.stdout}
    root = {"level": "CRITICAL", "handlers": ["console"]}
    logging.config.dictConfig({"version": 1, "handlers": {"console": console}, "root": root})


def by_basic_config() -> None:
    logging.basicConfig(force=True, level=logging.CRITICAL)


def by_basic_config_on_standard_output() -> None:
    logging.basicConfig(force=True, level=logging.DEBUG, stream=sys.stdout)


def by_a_handler_more() -> None:
    logging.root.addHandler(logging.StreamHandler())


def by_no_handler() -> None:
    logging.root.handlers.clear()


def by_a_level() -> None:
    logging.root.setLevel(logging.CRITICAL + 1)


def by_shutdown() -> None:
    logging.shutdown()


def by_disabling_levels() -> None:
    logging.disable(logging.CRITICAL)


def by_disabling_each_logger() -> None:
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate, logger.disabled = [], False, True


CONFIGURATIONS = [
    by_file,
    by_dictionary,
    by_dictionary_that_disables_nothing,
    by_dictionary_with_a_console,
    by_basic_config,
    by_basic_config_on_standard_output,
    by_a_handler_more,
    by_no_handler,
    by_a_level,
    by_shutdown,
    by_disabling_levels,
    by_disabling_each_logger,
]
MOMENTS = ["before", "after", "in a request", "in a thread"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("configure", CONFIGURATIONS)
def test_no_configuration_of_anybody_elses_silences_the_service(
    make_service: MakeService,
    capfd: pytest.CaptureFixture[str],
    configure: Callable[[], None],
    moment: str,
) -> None:
    former = logging.getLogger(f"{PACKAGE}.former")
    if moment == "before":
        configure()
    service = make_service(log_levels="basket=DEBUG")

    @service.app.get("/configures")
    def configures() -> str:
        configure()
        return ""

    service.app.get("/fails")(fail)
    service.app.get("/forbids")(lambda: abort(403))
    if moment == "after":
        configure()
    if moment == "in a request":
        service.client.get("/configures")
    if moment == "in a thread":
        thread = threading.Thread(target=configure)
        thread.start()
        thread.join()
    speak(service.app, former)
    told = [(line["logger"], line["message"], line["level"]) for line in service.lines()]
    if moment == "in a request":
        assert told.pop(0) == ("request", "request", "INFO")
    assert told == [
        (__name__, "ours", "INFO"),
        ("basket", "priced", "DEBUG"),
        (f"{PACKAGE}.former", "formerly", "INFO"),
        (f"{PACKAGE}.latter", "latterly", "INFO"),
        (f"{PACKAGE}.app", "by Flask's", "WARNING"),
        ("gunicorn.error", "Booting worker with pid: 7", "INFO"),
        (f"{PACKAGE}.observability.errors", "request failed", "ERROR"),
        ("request", "request", "ERROR"),
        (f"{PACKAGE}.observability.security", "security event", "WARNING"),
        ("request", "request", "INFO"),
    ]
    assert service.line("request failed")["exception"]["type"] == "ZeroDivisionError"
    assert capfd.readouterr() == ("", "")


def fail() -> str:
    return str(1 // 0)


def speak(app: Flask, former: logging.Logger) -> None:
    """Write a line of each kind that is the service's."""
    log.info("ours")
    log.debug("below LOG_LEVEL")
    get_logger("basket").debug("priced")
    former.info("formerly")
    logging.getLogger(f"{PACKAGE}.latter").info("latterly")
    app.logger.warning("by Flask's")
    logging.getLogger("gunicorn.error").info("Booting worker with pid: %s", 7)
    app.test_client().get("/fails")
    app.test_client().get("/forbids")


_IMPORTED_LATE = f"""
import logging.config
early = logging.getLogger("{PACKAGE}.early")
logging.config.dictConfig({{"version": 1}})
logging.basicConfig()
from {PACKAGE}.app import create_app
from {PACKAGE}.settings import Settings
create_app(Settings(_env_file=None))
early.info("early")
logging.getLogger("a.library").warning("a library's")
logging.config.dictConfig({{"version": 1}})
early.info("late")
"""


def test_what_was_configured_before_the_service_was_imported_silences_nothing(
    service: Service,
) -> None:
    done = a_process(_IMPORTED_LATE, service.log.parent)
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line["message"] for line in parsed(done.stdout)] == ["early", "a library's", "late"]


def test_a_librarys_line_comes_to_ours_where_nobody_left_it_a_handler(service: Service) -> None:
    by_no_handler()
    logging.getLogger("a.library").warning("a library's")
    assert service.line("a library's")["logger"] == "a.library"


def test_a_name_is_one_logger_whoever_asks_for_it() -> None:
    earlier = logging.getLogger("catalogue.prices")
    assert get_logger("catalogue").name == "catalogue"
    for name in ("catalogue", "catalogue.prices", "catalogue.prices.old"):
        get_logger(name).setLevel("ERROR")
        assert logging.getLogger(name).level == logging.ERROR
    assert logging.getLogger("catalogue.prices") is earlier
    assert earlier.getChild("old") is logging.getLogger("catalogue.prices.old")
    assert earlier.parent is logging.getLogger("catalogue")


def test_what_is_configured_for_a_logger_by_its_name_holds(service: Service) -> None:
    loggers = {f"{PACKAGE}.quiet": {"level": "ERROR"}}
    logging.config.dictConfig({"version": 1, "loggers": loggers})
    get_logger(f"{PACKAGE}.quiet").warning("too low")
    get_logger(f"{PACKAGE}.quiet").error("high enough")
    assert [line["message"] for line in service.lines()] == ["high enough"]


@pytest.mark.parametrize("made", [False, True])
def test_pytests_caplog_sees_each_line_once(
    request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture, made: bool
) -> None:
    if made:
        request.getfixturevalue("service")
    log.info("ours", parcel_id=7)
    logging.getLogger("a.library").warning("a library's")
    with caplog.at_level("DEBUG", logger=__name__):
        log.debug("in detail")
    assert caplog.messages == ["ours", "a library's", "in detail"]


def test_a_failure_that_is_logged_reaches_a_handler_that_others_put_on_the_root(
    service: Service,
) -> None:
    class Exporter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            exported.append(record.getMessage())

    exported: list[str] = []
    logging.root.addHandler(Exporter(logging.ERROR))
    service.app.get("/fails")(fail)
    service.client.get("/fails")
    assert exported == ["request failed"]
    assert len(service.lines("request failed")) == 1
