"""The page's server, for a browser on the same machine."""

import secrets
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tf_instdisc.errors import ServingError, StorageError, UsageError
from tf_instdisc.retrieval.browse.collection import Collection
from tf_instdisc.retrieval.browse.pictures import NotReadYetError, Pictures
from tf_instdisc.retrieval.browse.search import NotAnImageError
from tf_instdisc.retrieval.browse.server import PROTECTION
from tf_instdisc.retrieval.browse.ticked import TickedList
from tf_instdisc.retrieval.queries import Neighbors
from tf_instdisc.text import shown

MAX_UPLOAD = 64 * 2**20
"""Largest size of a file that is dropped, in bytes."""

_MOST = 500  # Items in a response.


def build_app(
    collection: Collection, pictures: Pictures, ticked: TickedList
) -> Starlette:
    """Returns the server's application."""
    server = _Server(collection, pictures, ticked)
    routes = [
        Route("/api/about", server.about),
        Route("/api/find", server.find),
        Route("/api/neighbors", server.neighbors_of_file, methods=["POST"]),
        Route("/api/neighbors/{position:int}", server.neighbors_of_image),
        Route("/api/map", server.map),
        Route("/api/duplicates", server.duplicates),
        Route("/api/ticked", server.tick, methods=["POST"]),
        Route("/thumbnails/{position:int}", server.thumbnail),
        Route("/pictures/{position:int}", server.whole),
        Mount(
            "/",
            StaticFiles(
                packages=[(__package__, "page")],
                html=True,
                follow_symlink=True,  # Some installers link the files.
            ),
        ),
    ]
    return Starlette(
        routes=routes,
        middleware=PROTECTION,
        exception_handlers={HTTPException: _show_error},
    )


class _Server:
    """Answers the requests of the page."""

    def __init__(
        self, collection: Collection, pictures: Pictures, ticked: TickedList
    ):
        self._collection = collection
        self._pictures = pictures
        self._ticked = ticked
        # Browsers keep pictures and pages, whose positions may be of another
        # run, until the server is started again.
        self._version = secrets.token_hex(4)

    def about(self, request: Request) -> Response:
        bank = self._collection.bank
        return JSONResponse(
            {
                "version": self._version,
                "title": shown(self._collection.title),
                "count": len(bank.names),
                "classes": [shown(name) for name in bank.class_names],
                "has_rows": self._collection.has_rows,
                "pictures_are_ready": self._pictures.is_ready,
                "ticked": self._ticked.positions,
                "ticked_file": shown(str(self._ticked.path)),
            }
        )

    def find(self, request: Request) -> Response:
        label = _number(request, "class", -1)
        found = self._collection.find(
            request.query_params.get("text", ""), None if label < 0 else label
        )
        start = max(0, _number(request, "start", 0))
        page = found[start : start + _count(request)]
        return JSONResponse({"total": len(found), "items": self._items(page)})

    def neighbors_of_image(self, request: Request) -> Response:
        position = self._position(request)
        try:
            found = self._collection.search.of_image(position, _count(request))
        except OSError as error:
            raise HTTPException(404, "The image's file is missing.") from error
        except (UsageError, ServingError) as error:
            raise _unanswered(error) from error
        return JSONResponse(
            {
                "image": self._item(position),
                "items": self._scored(found),
            }
        )

    async def neighbors_of_file(self, request: Request) -> Response:
        self._require_same_start(request)
        contents = bytearray()
        async for chunk in request.stream():
            contents += chunk
            if len(contents) > MAX_UPLOAD:
                raise HTTPException(
                    413, f"A file may have {MAX_UPLOAD >> 20} MB at most."
                )
        try:
            found = await run_in_threadpool(
                self._collection.search.of_file,
                bytes(contents),
                _count(request),
            )
        except (UsageError, ServingError) as error:
            raise _unanswered(error) from error
        return JSONResponse({"items": self._scored(found)})

    def map(self, request: Request) -> Response:
        """Returns the names of the groups, or all places and groups."""
        self._require_rows()
        drawn = _done(self._collection.map())
        if drawn is None:
            return JSONResponse({"is_ready": False})
        if "places" not in request.query_params:
            return JSONResponse(
                {
                    "is_ready": True,
                    "groups": [shown(name) for name in drawn.names],
                }
            )
        content = drawn.places.astype("<u2").tobytes() + drawn.groups.tobytes()
        return Response(content, media_type="application/octet-stream")

    def duplicates(self, request: Request) -> Response:
        self._require_rows()
        pairs = _done(self._collection.pairs())
        if pairs is None:
            return JSONResponse({"is_ready": False})
        start = max(0, _number(request, "start", 0))
        page = range(start, min(start + _count(request), len(pairs.first)))
        return JSONResponse(
            {
                "is_ready": True,
                "total": len(pairs.first),
                "is_complete": pairs.is_complete,
                "items": [
                    {
                        "first": self._item(int(pairs.first[pair])),
                        "second": self._item(int(pairs.second[pair])),
                        "score": round(float(pairs.scores[pair]), 4),
                    }
                    for pair in page
                ],
            }
        )

    async def tick(self, request: Request) -> Response:
        self._require_same_start(request)
        try:
            wanted = await request.json()
            position = wanted["position"]
            is_ticked = wanted["ticked"]
        except (ValueError, KeyError, TypeError) as error:
            raise HTTPException(400, "A position is required.") from error
        if type(position) is not int or type(is_ticked) is not bool:
            raise HTTPException(400, "A position is required.")
        self._require_position(position)
        try:
            await run_in_threadpool(self._ticked.tick, position, is_ticked)
        except OSError as error:
            raise HTTPException(
                507, f"{shown(str(self._ticked.path))}: {error.strerror}."
            ) from error
        except StorageError as error:  # At a URL.
            raise HTTPException(507, shown(str(error))) from error
        return JSONResponse({"ticked": self._ticked.positions})

    def thumbnail(self, request: Request) -> Response:
        return self._picture(request, self._pictures.thumbnail)

    def whole(self, request: Request) -> Response:
        return self._picture(request, self._pictures.whole)

    def _picture(
        self, request: Request, read: Callable[[int], bytes | None]
    ) -> Response:
        try:
            content = read(self._position(request))
        except NotReadYetError:
            raise HTTPException(
                503, "The picture has not been read yet."
            ) from None
        if content is None:
            raise HTTPException(404, "The image's file is missing.")
        # Their addresses have the version.
        headers = {"Cache-Control": "private, max-age=86400"}
        return Response(content, media_type="image/jpeg", headers=headers)

    def _item(self, position: int) -> dict[str, Any]:
        bank = self._collection.bank
        return {
            "position": position,
            "name": shown(str(bank.names[position])),
            "label": int(bank.labels[position]),
        }

    def _items(self, positions: Iterable) -> list[dict[str, Any]]:
        return [self._item(int(position)) for position in positions]

    def _scored(self, found: Neighbors) -> list[dict[str, Any]]:
        return [
            {**item, "score": round(float(score), 4)}
            for item, score in zip(
                self._items(found.positions[0]), found.scores[0], strict=True
            )
        ]

    def _position(self, request: Request) -> int:
        position = request.path_params["position"]
        self._require_position(position)
        return position

    def _require_position(self, position: int) -> None:
        if not 0 <= position < len(self._collection.bank.names):
            raise HTTPException(404, "There is no image of this number.")

    def _require_same_start(self, request: Request) -> None:
        """Refuses a page that shows the images of an earlier start."""
        if request.headers.get("x-version") != self._version:
            raise HTTPException(
                409, "The server was started again. Reload the page."
            )

    def _require_rows(self) -> None:
        if not self._collection.has_rows:
            raise HTTPException(
                404,
                "The map and near-duplicates need the rows of the bank, which "
                "a server does not return.",
            )


def _done(future: futures.Future) -> Any:
    """Returns the result of a computation; None if it is not finished.

    Raises:
        HTTPException: If it failed.
    """
    if not future.done():
        return None
    error = future.exception()
    if error is not None:
        raise HTTPException(500, shown(str(error))) from error
    return future.result()


def _unanswered(error: Exception) -> HTTPException:
    is_refused = isinstance(error, NotAnImageError)
    return HTTPException(400 if is_refused else 502, shown(str(error)))


def _number(request: Request, name: str, default: int) -> int:
    try:
        return int(request.query_params.get(name, default))
    except ValueError:
        raise HTTPException(400, f"{name} must be a number.") from None


def _count(request: Request) -> int:
    return int(np.clip(_number(request, "count", 60), 1, _MOST))


def _show_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)
