"""`palimpsest collection`: named sets of documents, over REST."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from palimpsest.commands.common import AsJson, Data, connected, out, print_json, wide

app = typer.Typer(
    help="Manage named sets of documents, and folders that the service reads.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Name or id of the collection.", metavar="NAME")]


@app.command("list")
def list_collections(
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 100, as_json: AsJson = False, data: Data = None
) -> None:
    """List collections by name."""
    with connected(data) as client:
        page = client.collections(limit=limit)
        if as_json:
            return print_json(page)
        table = Table(box=None, pad_edge=False)
        for heading in ("id", "name", "documents", "unreadable", "source"):
            table.add_column(heading)
        for one in page["data"]:
            cells = (one["name"], f"{one['documents']:,}", f"{one['unreadable']:,}", _source(one))
            table.add_row(one["id"], *(Text(cell) for cell in cells))
        wide.print(table)


def _source(collection: dict[str, Any]) -> str:
    return " ".join(filter(None, (collection["source"], collection["glob"])))


@app.command()
def show(
    name: Name,
    deleted: Annotated[bool, typer.Option("--deleted", help="Show removed documents instead.")] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Show a collection and its documents, as of its last refresh."""
    with connected(data) as client:
        found = client.collection(name)
        documents = list(client.collection_documents(found["id"], deleted=deleted))
        if as_json:
            return print_json({**found, "data": documents})
        out.print(f"{found['id']} {found['name']} {_source(found)}".rstrip(), markup=False)
        if found["refresh_error"]:
            out.print(f"The source could not be read: {found['refresh_error']}", markup=False)
        table = Table(box=None, pad_edge=False)
        for heading in ("path", "document", "changed", "error"):
            table.add_column(heading)
        for one in documents:
            error = f"{one['error']['code']}: {one['error']['message']}" if one["error"] else ""
            cells = (one["path"], one["document_id"] or "", one["changed_at"][:19], error)
            table.add_row(*(Text(cell) for cell in cells))
        wide.print(table)


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    source: Annotated[str | None, typer.Option(help="URL of a folder that the service may read.")] = None,
    glob: Annotated[str | None, typer.Option(help="Only paths below the source that match.")] = None,
    data: Data = None,
) -> None:
    """Create a collection and print its id. The service fills one that has a source."""
    with connected(data) as client:
        out.print(client.create_collection(name, source, glob)["id"], markup=False)


@app.command()
def refresh(name: Name, data: Data = None) -> None:
    """Read the source now. Bulk jobs do so automatically."""
    with connected(data) as client:
        client.refresh_collection(_id(client.collection(name)))
        out.print(f"{name} is being refreshed", markup=False)


@app.command()
def delete(name: Name, data: Data = None) -> None:
    """Delete a collection. Its documents and the results of bulk jobs are kept."""
    with connected(data) as client:
        client.delete_collection(_id(client.collection(name)))
        out.print(f"{name} deleted", markup=False)


def _id(collection: dict[str, Any]) -> str:
    found: str = collection["id"]
    return found
