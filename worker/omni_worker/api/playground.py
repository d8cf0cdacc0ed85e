"""GET / and /playground/…: the web page for end users. --no-playground turns it off."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from omni_worker.api.errors import ApiError
from omni_worker.playground import ASSETS

MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
# The page loads only its own scripts and styles, and no other page may embed it.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


def playground_routes() -> APIRouter:
    """The routes of the page and its assets."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])  # some load balancers check with HEAD
    async def page() -> FileResponse:
        """The page."""
        return FileResponse(ASSETS / "index.html", media_type="text/html", headers=HEADERS)

    @router.get("/playground/{name}")
    async def asset(name: str) -> FileResponse:
        """Its styles and scripts."""
        file = ASSETS / name
        if file.suffix not in MEDIA_TYPES or file.parent != ASSETS or not file.is_file():
            raise ApiError(404, f"there is no file playground/{name}")
        return FileResponse(file, media_type=MEDIA_TYPES[file.suffix], headers=HEADERS)

    return router
