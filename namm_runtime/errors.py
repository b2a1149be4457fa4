"""The one exception a caller of the runtime has to know."""


class Refusal(Exception):
    """A request that cannot be served, with a machine code and a sentence for its sender.

    Raised for what the caller sent (an empty document, a budget beyond the model's window, a scorer that
    does not fit), never for a defect of ours.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["Refusal"], tuple[str, str]]:
        return Refusal, (self.code, self.message)  # it crosses between processes
