"""Builds the container image from the real Dockerfile where there is no container engine, starts it, and tries it.

    python -m benchmarks.image --data-dir DIR [--volume HOST:PATH:ro ...] [--work DIR]

Wants Linux, root, buildah, debootstrap, iproute2 and Debian's package index. `--data-dir` holds the models `tiny.en`
and `silero-vad`. `--volume` mounts something while building, for example a pip.conf. A debootstrap of the same Debian
release stands in for Home Assistant's base image, and `benchmarks/standin/` for s6-overlay; s6 and execline are
Debian's. What is not tried, therefore: s6-overlay's own /init and s6-rc, bashio, AppArmor, arm64, a real Supervisor.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
BASE = "ghcr.io/home-assistant/base-debian:bookworm"
IMAGE = "wyoming-wlk-test"
BASE_PACKAGES = ("bash", "ca-certificates", "curl", "execline", "jq", "s6", "tzdata", "xz-utils")
BASE_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "CURL_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt",
    "S6_BEHAVIOUR_IF_STAGE2_FAILS": "2",
    "S6_CMD_WAIT_FOR_SERVICES_MAXTIME": "0",
}
"""What the real base image sets and our services depend on."""


@dataclass(frozen=True)
class Image:
    """A built image, mounted."""

    root: Path
    environment: dict[str, str]
    entrypoint: list[str]
    health: list[str]
    labels: dict[str, str]


class Builder:
    """buildah with a storage of its own, so that nothing of the machine's is touched."""

    def __init__(self, work: Path) -> None:
        driver = os.environ.get("STORAGE_DRIVER", "vfs")
        self._command = ["buildah", "--storage-driver", driver]
        self._command += ["--root", str(work / "storage"), "--runroot", str(work / "run")]

    def __call__(self, *arguments: str | Path, capture: bool = True) -> str:
        command = [*self._command, *map(str, arguments)]
        done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE if capture else None, cwd=ROOT)
        return (done.stdout or "").strip()


def make_base(buildah: Builder, folder: Path, mirror: str) -> None:
    """Stores the stand-in under the real base image's name. A folder that is there already is taken as it is."""
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", "bookworm"]
        subprocess.run([*command, str(partial), mirror], check=True, stdout=subprocess.DEVNULL)
        for unneeded in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(partial / unneeded)
        partial.rename(folder)
    commands = folder / "command"
    commands.mkdir(exist_ok=True)
    for program in [*folder.glob("usr/bin/s6-*"), *folder.glob("usr/lib/execline/bin/*")]:
        link = commands / program.name
        link.unlink(missing_ok=True)
        link.symlink_to("/" / program.relative_to(folder))
    shutil.copy(ROOT / "benchmarks" / "standin" / "with-contenv", commands)
    shutil.copy(ROOT / "benchmarks" / "standin" / "init", folder)
    container = buildah("from", "scratch")
    buildah("copy", "-q", container, folder, "/")
    settings = [part for item in BASE_ENVIRONMENT.items() for part in ("--env", "=".join(item))]
    buildah("config", *settings, "--entrypoint", '["/init"]', container)
    buildah("commit", "-q", "--format", "docker", "--rm", container, BASE)


def build(buildah: Builder, volumes: Sequence[str]) -> Image:
    """Builds the Dockerfile, as it is, with whatever torch the package index offers."""
    options = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--layers=false"]
    options += [part for volume in volumes for part in ("--volume", volume)]
    buildah("build", *options, "--build-arg", "TORCH_INDEX=", "-t", IMAGE, ".", capture=False)
    container = buildah("from", "--pull-never", IMAGE)
    config = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    return Image(
        Path(buildah("mount", container)),
        dict(variable.split("=", 1) for variable in config["Env"]),
        config["Entrypoint"],
        config["Healthcheck"]["Test"][1:],
        config["Labels"],
    )


def report_sizes(image: Image, base: Path) -> None:
    """Prints what the image is made of, in MB on the disk."""
    packages = next(image.root.glob("opt/wyoming-wlk/lib/python3*/site-packages"))
    named = {"torch": ["torch"], "numpy": ["numpy", "numpy.libs"], "PyAV": ["av", "av.libs"]}
    named |= {"onnxruntime": ["onnxruntime"], "sympy, networkx": ["sympy", "networkx", "mpmath"], "pip": ["pip"]}
    named |= {"our package": ["wyoming_wlk"]}
    sizes = {name: sum(_megabytes(packages / folder) for folder in folders) for name, folders in named.items()}
    total, virtual = _megabytes(image.root), _megabytes(image.root / "opt" / "wyoming-wlk")
    sizes["other libraries"] = virtual - sum(sizes.values())
    sizes["stand-in for the base image"] = _megabytes(base)
    sizes["Debian's Python"] = total - virtual - sizes["stand-in for the base image"]
    print(f"\nThe image has {total:.0f} MB:")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"  {size:6.0f}  {name}")
    print(f"  labels: {', '.join(f'{key}={value}' for key, value in image.labels.items() if 'hass' in key)}\n")


def _megabytes(folder: Path) -> float:
    done = subprocess.run(["du", "-s", "--block-size=K", str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout.split("K")[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="where the models are")
    parser.add_argument("--volume", action="append", default=[], help="mounted while building")
    parser.add_argument("--work", type=Path, help="where base image and storage are kept; otherwise both are temporary")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="of Debian")
    parsed = parser.parse_args()
    work = parsed.work or Path(tempfile.mkdtemp(prefix="image-"))
    work.mkdir(parents=True, exist_ok=True)
    buildah = Builder(work)
    try:
        make_base(buildah, work / "base", parsed.mirror)
        image = build(buildah, parsed.volume)
        report_sizes(image, work / "base")
        given = {"root": str(image.root), "environment": image.environment, "health": image.health}
        given |= {"entrypoint": image.entrypoint, "data": str(parsed.data_dir.resolve()), "work": str(work)}
        # a network of its own, where addresses may be what they are on Home Assistant
        command = ["unshare", "--net", "--mount", sys.executable, "-m", "benchmarks.container", json.dumps(given)]
        return subprocess.run(command, check=False, cwd=ROOT).returncode
    finally:
        buildah("rm", "--all")
        if parsed.work is None:
            buildah("rmi", "--all", "--force")
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
