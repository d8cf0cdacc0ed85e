"""GET / and /playground/…: the page for people, off with --no-playground."""

from fastapi import APIRouter
from fastapi.responses import FileResponse

from omni_worker.api.errors import ApiError
from omni_worker.playground import ASSETS

TYPES = {".css": "text/css", ".js": "text/javascript"}
# Nothing from elsewhere runs on the page, and no other page may frame it.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; media-src blob:; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
}


def playground_routes() -> APIRouter:
    """The page and what belongs to it."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])  # load balancers ask by HEAD
    async def page() -> FileResponse:
        """The page."""
        return FileResponse(ASSETS / "index.html", media_type="text/html", headers=HEADERS)

    @router.get("/playground/{name}")
    async def asset(name: str) -> FileResponse:
        """Its styles and scripts."""
        file = ASSETS / name
        if file.suffix not in TYPES or file.parent != ASSETS or not file.is_file():
            raise ApiError(404, f"there is no file playground/{name}")
        return FileResponse(file, media_type=TYPES[file.suffix], headers=HEADERS)

    return router
