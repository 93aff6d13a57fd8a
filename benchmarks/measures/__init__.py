"""The measures: one file for each kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import crowds, endpoints, events, files, layers, one_way, requests, round_trip, strangers

if TYPE_CHECKING:
    from .base import Measure

__all__ = ["MEASURES"]

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        one_way.OneWay(),
        round_trip.RoundTrip(),
        requests.Requests(),
        crowds.Crowds(),
        events.Events(),
        endpoints.Endpoints(),
        strangers.Strangers(),
        files.Files(),
        layers.Layers(),
    )
}
