"""How many threads torch is given."""

import os

import pytest
import torch

from flexframe import threads


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Eight processors, of which two are busy; torch would take eight."""
    before = torch.get_num_threads()
    monkeypatch.delenv(threads.GIVEN, raising=False)
    monkeypatch.setattr(threads, "usual", lambda: 8)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "getloadavg", lambda: (2.0, 0, 0), raising=False)
    yield
    torch.set_num_threads(before)


SMALL, LARGE = torch.nn.Linear(3, 3), torch.nn.Linear(6000, 5000, device="meta").requires_grad_(False)


def test_a_small_model_has_one_and_a_large_one_what_the_machine_spares(monkeypatch):
    assert threads.worth(threads.SMALL - 1) == 1
    assert threads.worth(threads.SMALL) == 6
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 0, 0))
    assert threads.worth(threads.SMALL) == 1
    monkeypatch.setattr(threads, "usual", lambda: 4)  # torch leaves out what shares a core
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0, 0))
    assert threads.worth(threads.SMALL) == 4


def test_the_commands_word_goes_before_the_environments_and_that_before_the_models(monkeypatch):
    torch.set_num_threads(2)
    assert threads.use(None, SMALL) == torch.get_num_threads() == 1
    assert threads.use(3, SMALL) == torch.get_num_threads() == 3
    monkeypatch.setenv(threads.GIVEN, "3")
    assert threads.use(None, SMALL) == torch.get_num_threads() == 3
    assert threads.use(2, SMALL) == torch.get_num_threads() == 2


def test_a_model_elsewhere_leaves_the_cpus_threads_as_they_were():
    torch.set_num_threads(2)
    assert threads.use(None, SMALL, LARGE) == torch.get_num_threads() == 2
