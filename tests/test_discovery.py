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

from wyoming_wlk.discovery import Announcer, service_name, usable_addresses

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
    announcing = asyncio.create_task(Announcer(name, host, 10300).run())
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
    """A neighbour sees real addresses, sees them change, and sees the server leave."""
    program = Path(__file__).with_name("announcing.py")
    environment = os.environ | {"PYTHONPATH": str(program.parents[1])}
    done = subprocess.run(
        [*namespace(), sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    name = "wyoming-wlk-test._wyoming._tcp.local."
    assert json.loads(done.stdout) == {
        "first": {name: ["192.0.2.10", "10300"]},
        "second": {name: ["192.0.2.10", "198.51.100.7", "10300"]},
        "one less": {name: ["192.0.2.10", "10300"]},
        "ipv6": {name.replace("test", "test-6"): ["2001:db8::10", "10306"]},
        "stopped": {},
    }
    assert "no address to announce" in done.stderr
