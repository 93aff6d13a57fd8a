"""Which hub has which endpoint."""

from __future__ import annotations

from seigr_toolset_transmissions.cluster.routes import Routes

A, B = b"A" * 8, b"B" * 8


def test_the_hub_that_has_said_so_last_is_found() -> None:
    routes = Routes[str]()
    for hub in ("one", "two", "three"):
        routes.add(hub)
    routes.join("two", [A, B])
    assert (routes.find(A), routes.find(B), routes.count("two")) == ("two", "two", 2)
    routes.join("one", [A])
    assert routes.find(A) == "one"
    routes.leave("one", [A])
    assert routes.find(A) == "two"
    routes.join("three", [A])
    routes.forget("two")
    assert (routes.find(A), routes.find(B)) == ("three", None)


def test_what_left_before_it_came_is_no_error() -> None:
    routes = Routes[str]()
    routes.add("one")
    routes.leave("one", [A])
    assert routes.find(A) is None
    assert routes.count("two") == 0
