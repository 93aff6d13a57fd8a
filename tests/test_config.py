"""Settings: the defaults work, and values that cannot work are refused by name."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Any

import pytest

from seigr_toolset_transmissions import NodeConfig
from seigr_toolset_transmissions.errors import STTConfigError, STTError

NAMES = [field.name for field in dataclasses.fields(NodeConfig) if field.type != "bool"]
SWITCHES = [field.name for field in dataclasses.fields(NodeConfig) if field.type == "bool"]
OPTIONAL = {"handler_warning", "max_suspended"}
WHOLE = [field.name for field in dataclasses.fields(NodeConfig) if str(field.type)[:3] == "int"]


def test_the_defaults_are_those_of_the_design() -> None:
    settings = NodeConfig()
    assert settings.max_message_bytes == 4 * 1024 * 1024
    assert settings.send_window_bytes == settings.receive_window_bytes == 8 * 1024 * 1024
    assert settings.resume_window == 120
    assert settings.ping_interval == settings.ping_timeout == 15
    assert settings.write_timeout == 30
    assert settings.handshake_timeout == 10
    assert settings.ack_delay == 0.025
    assert settings.handler_warning == 10
    assert settings.max_half_open == 256
    assert settings.max_half_open_per_source == 16
    assert settings.max_sessions == 4096
    assert settings.max_sessions_per_peer == 8
    assert settings.max_suspended is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "8", None])
def test_a_value_that_is_not_a_positive_number_is_refused_by_name(name: str, value: Any) -> None:
    if value is None and name in OPTIONAL:
        settings: dict[str, Any] = {name: None}
        assert getattr(NodeConfig(**settings), name) is None
        return
    with pytest.raises(STTConfigError, match=f"^{name} must be a number above 0"):
        NodeConfig(**{name: value})


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [0, 1, "no", None])
def test_a_switch_is_on_or_off(name: str, value: Any) -> None:
    assert getattr(NodeConfig(**{name: True}), name) is True
    with pytest.raises(STTConfigError, match=f"^{name} must be True or False"):
        NodeConfig(**{name: value})


@pytest.mark.parametrize("name", WHOLE)
def test_a_count_is_a_whole_number(name: str) -> None:
    settings: dict[str, Any] = {name: 2.5e9}
    with pytest.raises(STTConfigError, match=f"^{name} must be a whole number"):
        NodeConfig(**settings)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(WHOLE)))
def test_a_time_may_be_a_whole_number_or_not(name: str) -> None:
    settings: dict[str, Any] = {name: 2}
    assert getattr(NodeConfig(**settings), name) == 2
    settings = {name: 0.5}
    assert getattr(NodeConfig(**settings), name) == 0.5


@pytest.mark.parametrize("name", ["send_window_bytes", "receive_window_bytes"])
def test_a_window_must_hold_two_messages_of_the_largest_size(name: str) -> None:
    settings: dict[str, Any] = {"max_message_bytes": 1000, name: 2000}
    assert getattr(NodeConfig(**settings), name) == 2000
    with pytest.raises(STTConfigError, match=rf"^{name} must be at least 2000, .*, not 1999$"):
        NodeConfig(**settings | {name: 1999})


@pytest.mark.parametrize("name", ["send_window_bytes", "receive_window_bytes"])
def test_a_window_must_hold_a_message_with_its_cost_however_short(name: str) -> None:
    settings: dict[str, Any] = {"max_message_bytes": 1, name: 128}
    assert getattr(NodeConfig(**settings), name) == 128
    with pytest.raises(STTConfigError, match=rf"^{name} must be at least 128, .*, not 127$"):
        NodeConfig(**settings | {name: 127})


def test_max_buffered_bytes_must_hold_two_windows() -> None:
    window = NodeConfig().receive_window_bytes
    assert NodeConfig(max_buffered_bytes=2 * window).max_buffered_bytes == 2 * window
    with pytest.raises(
        STTConfigError, match=rf"^max_buffered_bytes must be at least {2 * window}, so"
    ):
        NodeConfig(max_buffered_bytes=2 * window - 1)


def test_larger_messages_need_larger_windows() -> None:
    with pytest.raises(STTConfigError, match="send_window_bytes"):
        NodeConfig(max_message_bytes=5 * 1024 * 1024)


def test_settings_cannot_be_changed_nor_mistyped() -> None:
    settings: Any = NodeConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.max_sessions = 1
    unknown: dict[str, Any] = {"max_session": 1}
    with pytest.raises(TypeError, match="max_session"):
        NodeConfig(**unknown)
    positional: Any = NodeConfig
    with pytest.raises(TypeError):
        positional(1)


def test_a_bad_setting_is_an_stt_error_and_a_value_error() -> None:
    with pytest.raises(STTError) as caught:
        NodeConfig(max_sessions=0)
    assert isinstance(caught.value, ValueError)


def test_help_explains_each_setting_once() -> None:
    described = inspect.getdoc(NodeConfig) or ""
    arguments = described.partition("Args:\n")[2].partition("\n\nRaises:")[0]
    settings = re.findall(r"^    (\w+): (.{20,})$", arguments, re.MULTILINE)
    assert [name for name, _ in settings] == [
        field.name for field in dataclasses.fields(NodeConfig)
    ]
