"""Settings: defaults, the environment, overrides; what is not meant is refused by name."""

import pytest

from shoal import config


def test_later_sources_win(monkeypatch):
    assert config.load().poll_us == config.Config().poll_us
    monkeypatch.setenv("SHOAL_POLL_US", "7")
    assert config.load().poll_us == 7
    assert config.load({"poll_us": 9}).poll_us == 9


def test_types_follow_the_defaults(monkeypatch):
    monkeypatch.setenv("SHOAL_TICK_MS", "1.5")
    found = config.load({"outbox_bytes_max": "1048576", "get_warning_s": 3, "strict_seal": "true"})
    assert (found.tick_ms, found.outbox_bytes_max, found.get_warning_s) == (1.5, 1048576, 3.0)
    assert type(found.get_warning_s) is float
    assert found.strict_seal is True


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1", True),
        ("True", True),
        ("yes", True),
        ("0", False),
        ("false", False),
        ("no", False),
        ("OFF", False),
    ],
)
def test_flags(monkeypatch, text, meant):
    monkeypatch.setenv("SHOAL_STRICT_SEAL", text)
    assert config.load().strict_seal is meant


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("poll_us", "many"),
        ("poll_us", 1.5),
        ("poll_us", None),
        ("poll_us", -1),
        ("tick_ms", "-0.5"),
        ("tick_ms", "nan"),
        ("frame_bytes_max", float("inf")),
        ("strict_seal", "perhaps"),
        ("strict_seal", 2),
    ],
)
def test_bad_values_are_refused_with_their_name(name, value):
    with pytest.raises(ValueError, match=name):
        config.load({name: value})


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="unknown setting 'pol_us'"):
        config.load({"pol_us": 1})
    monkeypatch.setenv("SHOAL_TEST_RUN", "the environment has other things that begin like this")
    config.load()


def test_a_name_that_does_not_exist_is_refused_when_one_is_made():
    assert config.Config(poll_us=3).poll_us == 3
    with pytest.raises(TypeError, match="pol_us"):
        config.Config(pol_us=3)


def test_limits_that_depend_on_each_other_fit():
    """What may ride in one message fits a frame, many times over."""
    defaults = config.Config()
    assert defaults.inline_bytes_max < defaults.inline_args_bytes_max < defaults.frame_bytes_max // 8
    assert defaults.slab_bytes_min <= defaults.slab_bytes_max
