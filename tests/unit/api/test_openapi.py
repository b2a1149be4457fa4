"""The OpenAPI document, and what importing the API must not do."""

import subprocess
import sys
from typing import Any

import pytest

from api.app import create_app
from api.jobs.schemas import JobCreate
from store.settings import Settings


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    settings = Settings.model_validate(
        {"DATABASE_URL": "postgresql://nowhere/none", "data_dir": "/nonexistent"}
    )
    return create_app(settings).openapi()


def test_importing_the_api_does_not_load_what_is_large() -> None:
    unwanted = ("torch", "transformers", "namm_runtime", "pyarrow")
    code = f"import sys, api.app; sys.exit(any(module in sys.modules for module in {unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_documented_problem_is_a_problem(openapi: dict[str, Any]) -> None:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                if status[0] in "45" and path != "/readyz":
                    assert list(response["content"]) == ["application/problem+json"], (method, path, status)


def test_every_request_example_is_valid(openapi: dict[str, Any]) -> None:
    examples = openapi["components"]["schemas"]["JobCreate"]["examples"]
    assert examples
    for example in examples:
        JobCreate.model_validate(example)


def test_every_request_schema_refuses_unknown_fields(openapi: dict[str, Any]) -> None:
    for operation in (method for methods in openapi["paths"].values() for method in methods.values()):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body:
            name = body["schema"]["$ref"].rsplit("/", 1)[-1]
            assert openapi["components"]["schemas"][name]["additionalProperties"] is False


def test_every_number_in_a_request_has_bounds(openapi: dict[str, Any]) -> None:
    def numbers(schema: dict[str, Any]) -> list[dict[str, Any]]:
        choices = schema.get("anyOf", [schema])
        return [choice for choice in choices if choice.get("type") in ("integer", "number")]

    properties = openapi["components"]["schemas"]["JobCreate"]["properties"]
    checked = 0
    for name, schema in properties.items():
        for number in numbers(schema):
            assert "maximum" in number, name
            assert "minimum" in number or "exclusiveMinimum" in number, name
            checked += 1
    assert checked >= 6


def test_reports_document_their_forms_and_parameters(openapi: dict[str, Any]) -> None:
    files = ["text/csv", "application/vnd.apache.parquet"]
    interval = {"start_time", "end_time"}
    asked = {*interval, "bucket_width", "timezone", "group_by[]", "filter", "limit", "page", "as_of"}
    for path, forms, parameters in (
        ("/v1/usage", ["application/json", "application/x-ndjson", *files], asked),
        ("/v1/costs", ["application/json", "application/x-ndjson", *files], asked),
        ("/v1/savings", ["application/json", "application/x-ndjson", *files], asked),
        ("/v1/exports/focus", files, interval),
    ):
        operation = openapi["paths"][path]["get"]
        assert sorted(operation["responses"]["200"]["content"]) == sorted(forms), path
        assert {one["name"] for one in operation["parameters"]} == parameters, path
        assert all(one["description"] for one in operation["parameters"])
        assert {"401", "406", "422"} <= set(operation["responses"])


def test_outcomes_document_their_parameters_and_figures(openapi: dict[str, Any]) -> None:
    operation = openapi["paths"]["/v1/scorers/{name}/outcomes"]["get"]
    queries = {one["name"]: one for one in operation["parameters"] if one["in"] == "query"}
    assert queries.keys() == {"start_time", "end_time", "version"}
    assert all(one["description"] for one in queries.values())
    assert {"200", "401", "404", "422"} <= set(operation["responses"])
    reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
    assert reference.endswith("/OutcomeList")
    figures = openapi["components"]["schemas"]["OutcomeOut"]["properties"]
    assert {"jobs", "failure_rate", "kept", "money", "shadow", "evaluation"} <= figures.keys()
    amount = openapi["components"]["schemas"]["MoneyOut"]["properties"]["cost"]
    assert {"type": "string"} in amount["anyOf"], "money is never a binary fraction"
