"""The one exception that callers of the runtime need to handle."""


class Refusal(Exception):
    """A request that cannot be served, with an error code and a message for its sender.

    Raised for invalid input (an empty document, a budget beyond the model's window, an incompatible scorer),
    never for a bug.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["Refusal"], tuple[str, str]]:
        return Refusal, (self.code, self.message)  # it is sent between processes
