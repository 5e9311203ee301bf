"""MLflow's model server behind a bound on the size of a request, for a server that others reach:

    MLFLOW_TRACKING_URI=… SM_SEARCH_SERVED_MODEL=models:/sm-search@champion \
        uvicorn sm_search.tracking.model_server:served --factory --host … --port 5001

`mlflow models serve` itself holds a request in memory whole, however long it is.
"""

import os
from typing import TYPE_CHECKING

from mlflow.environment_variables import MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT
from starlette.responses import JSONResponse

from sm_search.config.errors import InputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MODEL_VARIABLE = "SM_SEARCH_SERVED_MODEL"
SIZE_VARIABLE, MAX_BYTES = "SM_SEARCH_MAX_REQUEST_BYTES", 256_000_000
"""A matrix of 2 × 168 components on 32 × 32 voxels is 13 MB of JSON."""


class BoundedBody:
    """An ASGI application that answers a longer request with status 413, before it is all there."""

    def __init__(self, app: "ASGIApp", most_bytes: int) -> None:
        self.app = app
        self.most_bytes = most_bytes

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = JSONResponse({"detail": f"longer than {self.most_bytes} bytes, the limit ({SIZE_VARIABLE})"}, 413)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.most_bytes:
            await refusal(scope, receive, send)
            return
        seen = 0

        async def counted() -> "Message":
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # For the application the sender is gone, which ends its work whatever it is at.
            return message if seen <= self.most_bytes else {"type": "http.disconnect"}

        async def unless_refused(message: "Message") -> None:
            if seen <= self.most_bytes:
                await send(message)

        try:
            await self.app(scope, counted, unless_refused)
        except Exception:
            if seen <= self.most_bytes:
                raise
        if seen > self.most_bytes:
            await refusal(scope, receive, send)


def served() -> BoundedBody:
    """The application; for `uvicorn --factory`.

    Raises:
        InputError: the environment names no model.
    """
    uri = os.environ.get(MODEL_VARIABLE)
    if not uri:
        raise InputError(f"{MODEL_VARIABLE}: is not set; it names the model, such as models:/sm-search@champion")
    # As `mlflow models serve` does: the model reads it there.
    os.environ[MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.name] = str(MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT.get())
    from mlflow.pyfunc import load_model
    from mlflow.pyfunc.scoring_server import init

    return BoundedBody(init(load_model(uri)), int(os.environ.get(SIZE_VARIABLE, MAX_BYTES)))
