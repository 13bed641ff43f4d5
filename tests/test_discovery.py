"""The announcement: its name, its addresses, and what a neighbour on the network sees of it."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import ifaddr
import pytest

from wyoming_wlk.discovery import Announcer, Service, service_name, services_at, usable_addresses

# --- names ------------------------------------------------------------------------------------------------------------


def test_name_is_kept(tmp_path: Path) -> None:
    """A data folder has one name for ever, and another folder another one."""
    name = service_name("", tmp_path / "new" / "a")
    assert name.startswith("wyoming-wlk-")
    assert service_name("", tmp_path / "new" / "a") == name
    assert service_name("", tmp_path / "b") != name
    shutil.copytree(tmp_path / "new" / "a", tmp_path / "moved")
    assert service_name("", tmp_path / "moved") == name


def test_name_without_a_writable_folder(tmp_path: Path) -> None:
    """Where nothing can be kept there still is a name."""
    (tmp_path / "file").write_text("")
    assert service_name("", tmp_path / "file") != service_name("", tmp_path / "file")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_broken_identity(content: bytes, tmp_path: Path) -> None:
    """An identity that was lost is drawn anew, and then kept."""
    (tmp_path / "instance-id").write_bytes(content)
    (tmp_path / "other").mkdir()
    name = service_name("", tmp_path)
    assert service_name("", tmp_path) == name != service_name("", tmp_path / "other")


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("Living Room", "Living Room"),
        ("stt.example.org", "stt-example-org"),
        ("x" * 100, "x" * 63),
        ("ü" * 60, "ü" * 31),
        ("a\nb\x7f\udcff", "a-b--"),
    ],
)
def test_wanted_name(wanted: str, name: str, tmp_path: Path) -> None:
    """A given name is kept as far as a label can hold it: 63 bytes, without dots and control characters."""
    assert service_name(wanted, tmp_path) == name
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("host", ["h" * 64, "box.example.org", "ü" * 32, "", "x y"])
def test_host_names(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any host's name leaves room for what makes the name unique."""
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    name = service_name("", tmp_path)
    assert len(name.encode()) <= 63 and "." not in name
    assert name.endswith((tmp_path / "instance-id").read_text("utf-8"))
    assert name.startswith(f"wyoming-wlk-{host[:3]}")


AUTOMATIC = "wyoming-wlk-box-12345678"


@pytest.mark.parametrize(
    ("listening", "wanted", "expected"),
    [
        (["tcp://0.0.0.0:10300"], "", [(AUTOMATIC, 10300, ("0.0.0.0",))]),
        (["tcp://0.0.0.0:10301", "http://0.0.0.0:10380"], "", [(f"{AUTOMATIC}-10301", 10301, ("0.0.0.0",))]),
        (["tcp://192.0.2.1:10300", "tcp://[::]:10300"], "", [(AUTOMATIC, 10300, ("192.0.2.1", "::"))]),
        (
            ["unix:///run/wlk", "tcp://0.0.0.0:10301", "tcp://127.0.0.1:10300", "tcp://[::]:10301"],
            "",
            [(f"{AUTOMATIC}-10301", 10301, ("0.0.0.0", "::")), (AUTOMATIC, 10300, ("127.0.0.1",))],
        ),
        (
            ["tcp://0.0.0.0:7", "tcp://0.0.0.0:10300"],
            "Attic",
            [("Attic", 7, ("0.0.0.0",)), ("Attic-10300", 10300, ("0.0.0.0",))],
        ),
        (["tcp://0.0.0.0:1", "tcp://0.0.0.0:65535"], "x" * 63, [("x" * 63, 1), ("x" * 57 + "-65535", 65535)]),
        (["unix:///run/wlk", "stdio://"], "", []),
    ],
)
def test_services(
    listening: list[str],
    wanted: str,
    expected: list[tuple[object, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each port is a service with all its addresses, and an unusual one does not collide with another server here."""
    monkeypatch.setattr(socket, "gethostname", lambda: "box")
    (tmp_path / "instance-id").write_text("12345678")
    found = [(service.name, service.port, service.hosts) for service in services_at(listening, wanted, tmp_path)]
    assert found == [(*service, ("0.0.0.0",))[:3] for service in expected]


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with addresses of all kinds."""
    ips: list[str | tuple[str, int, int]] = [
        "127.0.0.1",
        "192.168.1.5",
        "169.254.3.4",
        "10.8.0.2",
        "0.0.0.0",
        "192.168.1.5",
    ]
    ips += [("::1", 0, 0), ("fe80::1", 0, 2), ("fd00::5", 0, 0), ("2001:db8::5", 0, 0)]
    found = [ifaddr.Adapter(f"if{n}", f"if{n}", [ifaddr.IP(ip, 24, f"if{n}")], index=n) for n, ip in enumerate(ips)]
    monkeypatch.setattr(ifaddr, "get_adapters", lambda: found)


@pytest.mark.parametrize(
    ("bound_to", "expected"),
    [
        ("0.0.0.0", ["10.8.0.2", "192.168.1.5"]),
        ("::", ["2001:db8::5", "fd00::5"]),
        ("127.0.0.1", []),
        ("127.1.2.3", []),
        ("::1", []),
        ("192.168.1.5", ["192.168.1.5"]),
        ("2001:db8::5", ["2001:db8::5"]),
    ],
)
def test_addresses(bound_to: str, expected: list[str], adapters: None) -> None:
    """Only addresses that others can use and that the server listens on are announced."""
    assert usable_addresses(bound_to) == expected


def test_addresses_of_several_listeners(adapters: None) -> None:
    """What is bound to several addresses is reached at all of them, and at none of them twice."""
    service = Service("name", 10300, ("127.0.0.1", "0.0.0.0", "192.168.1.5", "::"))
    assert service.addresses() == ["10.8.0.2", "192.168.1.5", "2001:db8::5", "fd00::5"]


def test_addresses_of_this_machine() -> None:
    """Whatever machine this is, none of its addresses is useless for others."""
    for address in map(ipaddress.ip_address, usable_addresses("0.0.0.0") + usable_addresses("::")):
        assert not (address.is_unspecified or address.is_loopback or address.is_link_local or address.is_multicast)


async def test_ipv6_servers_are_not_reached_by_ipv4() -> None:
    """What listens on `::` cannot be reached by IPv4, which is why those addresses are not announced for it."""
    try:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "::", 0)
    except OSError as err:
        pytest.skip(f"this machine has no IPv6: {err}")
    async with server:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])


# --- the announcement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "host"), [("x" * 64, "192.0.2.1"), ("fine", "127.0.0.1")])
async def test_what_cannot_be_announced(name: str, host: str, caplog: pytest.LogCaptureFixture) -> None:
    """An announcement that fails is a warning; the server goes on."""
    announcing = asyncio.create_task(Announcer([Service(name, 10300, (host,))]).run())
    await asyncio.sleep(0.1)
    assert not announcing.done()
    announcing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await announcing
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "announce" in record.message


def namespace() -> list[str]:
    """The command that runs a program in a network of its own; skips the test where that is not allowed."""
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs the programs unshare and ip")
    trial = [*command, "ip", "link", "add", "wlk0", "type", "veth", "peer", "name", "wlk1"]
    done = subprocess.run(trial, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    return command


def test_neighbour() -> None:
    """A neighbour sees all ports at their real addresses, sees those change, and sees the server leave."""
    program = Path(__file__).with_name("announcing.py")
    environment = os.environ | {"PYTHONPATH": str(program.parents[1])}
    done = subprocess.run(
        [*namespace(), sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    seen = json.loads(done.stdout)
    first, second, sixth = "192.0.2.10", "198.51.100.7", "2001:db8::10"
    assert seen == {
        "first": {"usual": [first, sixth, "10300"], "other": [first, "10301"]},
        "one more": {"usual": [first, second, sixth, "10300"], "other": [first, second, "10301"]},
        "one less": {"usual": [first, sixth, "10300"], "other": [first, "10301"]},
        "stopped": {},
    }
    assert "no address to announce" in done.stderr
