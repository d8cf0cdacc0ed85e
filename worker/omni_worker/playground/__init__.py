"""The playground: a page that the head serves, in plain HTML, CSS and JavaScript modules, with no build and no asset
from elsewhere. It uses the same HTTP API as any client."""

from pathlib import Path

ASSETS = Path(__file__).parent
