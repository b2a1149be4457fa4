"""What a bulk job is asked for with."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from api.schemas import Asked, Text, Work


class Strategy(StrEnum):
    """How a document is read."""

    WHOLE = "whole"
    MAP_REDUCE = "map_reduce"


class BulkWork(Asked):
    """What is to be done with every document of a collection, and with what comes of it."""

    collection: Annotated[Text, StringConstraints(min_length=1, max_length=200)] = Field(
        description="Its id or name."
    )
    job: Work = Field(description="For each document.")
    strategy: Strategy = Field(Strategy.WHOLE, description="`map_reduce` reads a document in parts.")
    digest: bool = Field(True, description="Make a summary of the summaries.")
    only_changed: bool = Field(
        False, description="Only what is new or changed since the last one over the collection succeeded."
    )
    to: Annotated[Text, StringConstraints(min_length=1, max_length=2000)] | None = Field(
        None, description="URL of a folder that the results are copied to."
    )
