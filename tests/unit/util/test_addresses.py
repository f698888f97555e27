"""The address of this machine, without a cluster."""

import ipaddress
import socket

from shoal.util import get_node_ip_address


def test_without_a_session():
    assert ipaddress.ip_address(get_node_ip_address())


def test_without_a_network(monkeypatch):
    def none(*_):
        raise OSError("no network")

    monkeypatch.setattr(socket, "socket", none)
    assert get_node_ip_address() == "127.0.0.1"
