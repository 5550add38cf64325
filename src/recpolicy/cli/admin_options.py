"""Options that the commands of `recpolicy admin` share."""

from pathlib import Path
from typing import Annotated

import typer

Url = Annotated[str, typer.Option("--url", envvar="RECPOLICY_URL", help="Address of the server.")]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help="File that holds the API key, instead of RECPOLICY_KEY.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
