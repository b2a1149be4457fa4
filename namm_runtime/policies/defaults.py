"""The default policy of a model, and why."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from namm_runtime.model.loading import LoadedModel


def default_for(model: "LoadedModel") -> tuple[str, str]:
    """The policy of requests that name none, and the reason in a sentence."""
    return "namm-key", f"The default for every model, {model.name} too."
