"""The errors that a person or a client may see. Their text is shown as it is, so it must be clear on its own."""


class WlkError(Exception):
    """Base of every error this package raises on purpose.

    `code` is the short machine-readable word that goes over the wire (Wyoming's ``error.code``).
    """

    code = "internal"


class ConfigError(WlkError):
    """A wrong option value; the process ends with exit code 2."""

    code = "config"


class ModelError(WlkError):
    """A model that is unknown, cannot be fetched, or whose files are broken."""

    code = "model"


class AudioError(WlkError):
    """Audio whose format or length we cannot take."""

    code = "audio"


class ProtocolError(WlkError):
    """A message that breaks the wire protocol."""

    code = "protocol"


class RequestError(WlkError):
    """A well-formed message that asks for something we do not have (an unknown language, program or model)."""

    code = "request"


class UnknownModelError(RequestError):
    """A request for a model that is not the one we have."""

    code = "model_not_found"


class TooLargeError(RequestError):
    """An upload beyond the limit."""

    code = "too_large"


class AccessError(WlkError):
    """A client without the right token, or from a page of somebody else's."""

    code = "access"


class ForbiddenError(AccessError):
    """A client that comes another way than the one that is open; no token helps."""

    code = "forbidden"


class BusyError(WlkError):
    """The server is at a configured limit; try again later."""

    code = "busy"


class TakenError(WlkError):
    """A client id that another connection uses."""

    code = "taken"


class ClientTimeoutError(WlkError):
    """A client that kept us waiting too long."""

    code = "timeout"
