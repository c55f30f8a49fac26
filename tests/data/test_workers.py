"""Processes that read: what they meet and remark comes to the one that asked, and it never waits for them in vain."""

import multiprocessing
import os
import signal
import time

import pytest
import torch

from flexframe.data.images import BrokenImage
from flexframe.data.loader import batches
from flexframe.data.source import Sample, Source
from flexframe.train.distributed import ALONE
from flexframe.train.watch import Watch
from flexframe_registry import ConfigError, RunConfig
from flexframe_registry.kinds import SourceConfig

CPU = torch.device("cpu")


class Own(Exception):
    """Cannot be sent: it takes another number of arguments than it keeps."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Telling(Source):
    """Does something where images are read from the fourth on, and notes each that it reads."""

    def __init__(self, do):
        super().__init__(SourceConfig(type="telling"), (2, 2))
        self.do = do

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index >= 4:
            self.do()
        self.notes[index] = f"image {index}"
        return Sample(torch.zeros(3, 2, 2, dtype=torch.uint8), None, str(index))

    def protocol(self):
        return {}


@pytest.fixture(autouse=True)
def nobody_is_left():
    yield
    assert multiprocessing.active_children() == []


def read(do, steps=3):
    source = Telling(do)
    config = RunConfig.read({"data": "digits", "batch_size": 8, "steps": steps})
    return source, batches(source, config, 0, CPU, workers=2)


def thrower(error):
    def throw():
        raise error

    return throw


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (BrokenImage("cannot read image a.png"), BrokenImage, "cannot read image a.png"),
        (ConfigError.at("path", "is gone"), ConfigError, "path: is gone"),
        (MemoryError("so many bytes"), MemoryError, "so many bytes"),
        (Own(1, 2), RuntimeError, "Own: 1 and 2"),
        (SystemExit(3), RuntimeError, "SystemExit(3) was raised where data were read"),
    ],
)
def test_an_error_comes_as_it_was_raised(raised, kind, words):
    with pytest.raises(kind) as found:
        list(read(thrower(raised))[1])
    assert (type(found.value), str(found.value)) == (kind, words)
    assert "in throw" in found.value.__notes__[0]  # where, for --debug


@pytest.mark.parametrize(
    ("do", "how"),
    [(lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by signal: Killed"), (lambda: os._exit(3), "exit code 3")],
)
def test_a_process_that_is_lost_is_one_line(do, how):
    with pytest.raises(
        ChildProcessError, match=rf"read data for this one \(\d+\) was lost: .*{how}; .*run.feed.workers"
    ):
        list(read(do)[1])


@pytest.mark.parametrize("do", [lambda: os.kill(os.getpid(), signal.SIGSTOP), lambda: time.sleep(600)])
def test_one_that_does_not_answer_is_left_at_once(do):
    _, given = read(do)
    began = time.monotonic()
    with pytest.raises(TimeoutError), Watch(ALONE, 0.3):
        next(given)
    assert time.monotonic() - began < 5


def test_remarks_come_once_and_all():
    source, given = read(lambda: None, steps=4)
    assert len(list(given)) == 4
    assert source.notes == {index: f"image {index}" for index in range(8)}
