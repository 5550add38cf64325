"""The log of a server: complete while somebody reads it, and no obstacle while nobody does."""

import logging
import os
import threading

import pytest
from waiting import PATIENCE, wait_until

from recpolicy.server.asgi import log_as_json
from recpolicy.server.json_output import JsonFormatter, LoggedRequest
from recpolicy.server.log_output import BackgroundHandler


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def new_logger():
    """Return a function that makes a logger of one handler."""
    loggers = []

    def make(handler):
        logger = logging.Logger("test")
        logger.addHandler(handler)
        loggers.append(logger)
        return logger

    yield make
    for logger in loggers:
        for handler in logger.handlers:
            handler.close()


def read_some(descriptor):
    return os.read(descriptor, 1 << 20).decode()


@pytest.mark.parametrize("before", [[], [logging.StreamHandler()]])
def test_the_log_of_a_server_waits_for_no_reader_whoever_set_up_logging_before(before, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(before))
    for name in ("logThreads", "logProcesses", "logMultiprocessing", "_srcfile"):
        monkeypatch.setattr(logging, name, getattr(logging, name))
    for _ in range(2):
        log_as_json()
        assert [type(handler) for handler in root.handlers] == [BackgroundHandler]


def test_lines_arrive_in_order(pipe, new_logger):
    handler = BackgroundHandler(pipe[1])
    logger = new_logger(handler)
    for number in range(700):
        logger.info("%d", number)
    handler.flush()
    assert read_some(pipe[0]).split() == [str(number) for number in range(700)]


def test_a_record_of_several_requests_has_a_line_for_each(pipe, new_logger):
    handler = BackgroundHandler(pipe[1])
    handler.setFormatter(JsonFormatter())
    requests = [LoggedRequest(0.0, "GET", "/healthz", 200, 1.0)] * 3
    new_logger(handler).info("request", extra={"requests": requests})
    handler.flush()
    assert read_some(pipe[0]).count("\n") == 3


def test_a_pipe_that_nobody_reads_stops_nobody_and_the_drops_are_counted(pipe, new_logger):
    handler = BackgroundHandler(pipe[1], max_lines=100)
    logger, line = new_logger(handler), "x" * 1_000
    wait_until(lambda: logger.info(line) or handler.dropped, "the first drop")  # the pipe holds 64 KiB
    before = handler.dropped
    for _ in range(50):
        logger.info(line)
    assert handler.dropped == before + 50
    handler.flush()  # does not wait for ever
    text = ""
    while "were dropped" not in text:  # read again
        text += read_some(pipe[0])
    (note,) = [each for each in text.split("\n") if "were dropped" in each]
    assert note == f"{handler.dropped} log lines were dropped because nobody read them"
    assert text.count(line) >= 100


def test_a_reader_that_is_gone_stops_nobody(new_logger):
    read, write = os.pipe()
    os.close(read)
    handler = BackgroundHandler(write)
    logger = new_logger(handler)
    for _ in range(2):
        logger.info("line")
        handler.flush()
    assert handler._lines == 0
    os.close(write)


def test_a_record_that_cannot_be_formatted_stops_no_other(pipe, new_logger):
    handler = BackgroundHandler(pipe[1])
    logger = new_logger(handler)
    logger.info("%d", "no number")
    logger.info("line")
    handler.flush()
    assert read_some(pipe[0]) == "line\n"


def test_many_threads_lose_no_line(pipe, new_logger):
    handler = BackgroundHandler(pipe[1])
    logger = new_logger(handler)
    threads = [threading.Thread(target=lambda: [logger.info("line") for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    handler.flush()
    assert read_some(pipe[0]) == "line\n" * 2_000
