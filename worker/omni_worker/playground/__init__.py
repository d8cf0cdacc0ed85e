"""The playground: a web page that the head serves. It uses the same HTTP API as any client.

Plain HTML, CSS and JavaScript modules: nothing is built, and nothing is loaded from other servers.
"""

from pathlib import Path

ASSETS = Path(__file__).parent
