"""Asks a server whether it is well: a `describe` over Wyoming, as Home Assistant asks. For container health checks."""

from __future__ import annotations

import asyncio

from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.info import Describe, Info

_SECONDS = 5.0


async def health(uri: str) -> tuple[bool, str]:
    """Whether the server at `uri` answers `describe` in time, and one line for people about it."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await _describe(_reachable(uri))
    except TimeoutError:
        return False, f"{uri} does not answer within {_SECONDS:.0f} s"
    except OSError as err:
        return False, f"{uri}: {err}"
    except (EOFError, LookupError, TypeError, AttributeError, ValueError):  # what the library raises on foreign bytes
        return False, f"{uri} does not speak Wyoming"


async def _describe(uri: str) -> tuple[bool, str]:
    async with AsyncClient.from_uri(uri) as client:
        await client.write_event(Describe().event())
        while (event := await client.read_event()) is not None:
            if Info.is_type(event.type):
                program = Info.from_event(event).asr[0]  # the one that Home Assistant uses
                return True, f"{uri} is well: {program.name}, {', '.join(model.name for model in program.models)}"
            if Error.is_type(event.type):
                return False, f"{uri}: {Error.from_event(event).text}"
    return False, f"{uri} closes the connection without an answer"


def _reachable(uri: str) -> str:
    """A server that listens on all addresses is asked on this machine's own."""
    return uri.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
