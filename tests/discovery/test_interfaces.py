"""Which addresses are announced, where multicast DNS is spoken, and which address to dial first."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest

from seigr_toolset_transmissions.discovery.interfaces import Own, OwnAddress, own_addresses

pytestmark = pytest.mark.once


def own(*addresses: tuple[str, int]) -> Own:
    return Own(OwnAddress(ip_interface(at), interface) for at, interface in addresses)


LOOPBACK = [("127.0.0.1/8", 1), ("::1/128", 1)]
LAN = own(
    *LOOPBACK,
    ("2001:db8::5/64", 2),
    ("fe80::5/64", 2),
    ("192.168.1.5/24", 2),
    ("172.17.0.1/16", 3),  # containers
)


def test_others_get_all_addresses_that_they_can_dial_ipv4_first() -> None:
    assert [*map(str, LAN.announced((4, 6)))] == ["192.168.1.5", "172.17.0.1", "2001:db8::5"]
    assert [*map(str, LAN.announced((6,)))] == ["2001:db8::5"]


def test_a_machine_that_has_only_itself_announces_that() -> None:
    assert [*map(str, own(*LOOPBACK).announced((4, 6)))] == ["127.0.0.1", "::1"]
    assert own(*LOOPBACK).interfaces() == ("127.0.0.1",)


def test_at_most_eight_addresses_are_announced() -> None:
    many = own(*((f"10.0.{number}.1/24", number) for number in range(20)))
    assert [*map(str, many.announced((4, 6)))] == [f"10.0.{number}.1" for number in range(8)]


def test_each_interface_is_used_once_for_each_family() -> None:
    assert LAN.interfaces() == ("127.0.0.1", "192.168.1.5", "172.17.0.1", 2)


def test_an_address_leads_to_its_interface() -> None:
    found = [LAN.interface_of(ip_address(ip)) for ip in ("192.168.1.5", "2001:db8::5", "::1")]
    assert found == ["192.168.1.5", 2, "127.0.0.1"]
    with pytest.raises(OSError, match=r"no interface of this machine has the address 192\.0\.2\.1"):
        LAN.interface_of(ip_address("192.0.2.1"))


def test_an_address_on_a_network_of_this_machine_comes_first_and_its_own_last() -> None:
    others = [*map(ip_address, ("172.17.0.1", "10.8.0.2", "2001:db8:1::9", "192.168.1.9"))]
    assert LAN.best_first(others, 9400) == (
        ("192.168.1.9", 9400),
        ("10.8.0.2", 9400),
        ("2001:db8:1::9", 9400),
        ("172.17.0.1", 9400),
    )


def test_the_addresses_of_this_machine_are_listed() -> None:
    pytest.importorskip("ifaddr")
    assert "127.0.0.1" in own_addresses().interfaces()
