"""without_module: nothing is found inside, everything as ever afterwards."""

import sys

import pytest

from shoald.shell.absent import without_module

NAME = "this"  # a module that nobody has loaded


@pytest.fixture
def unloaded(monkeypatch):
    monkeypatch.delitem(sys.modules, NAME, raising=False)


def test_an_import_inside_fails_and_one_afterwards_does_not(unloaded, capsys):
    with without_module(NAME), pytest.raises(ImportError):
        __import__(NAME)
    assert NAME not in sys.modules
    assert __import__(NAME).__name__ == NAME


def test_it_can_be_imported_after_an_error_too(unloaded, capsys):
    with pytest.raises(KeyError), without_module(NAME):
        raise KeyError
    assert __import__(NAME).__name__ == NAME


def test_a_module_that_is_loaded_stays():
    import json

    with without_module("json"):
        assert __import__("json") is json
    assert sys.modules["json"] is json
