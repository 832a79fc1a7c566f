"""The assistant in a web application, with one streaming endpoint.

    pip install fastapi uvicorn
    uvicorn --app-dir examples fastapi_app:app
    curl -N localhost:8000/chat -H 'content-type: application/json' -d '{"text": "Hello"}'

The answer has one JSON object per line: `{"text": ...}` for each piece as soon as it is generated, and at the end
`{"turn_id", "session_id", "task", "notices"}` or `{"error", "message", "hint"}`. Send `session_id` back to continue the
conversation. If the client disconnects, the model stops.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from smallai_assistant import Assistant, AssistantConfig, AssistantError, Response, Session


class ChatBody(BaseModel):
    """The body of a request."""

    text: str
    session_id: str | None = None
    task: str | None = None


def create_app(config: AssistantConfig | None = None) -> FastAPI:
    """Makes the application. The assistant is opened at its start and closed at its end.

    Args:
        config: the assistant's settings; None reads the file and the environment.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with Assistant(config) as assistant:
            app.state.assistant = assistant
            yield

    app = FastAPI(title="smallai", lifespan=lifespan)

    @app.exception_handler(AssistantError)
    async def refuse(_request: Request, error: AssistantError) -> JSONResponse:
        return JSONResponse(_described(error), status_code=422)

    @app.post("/chat")
    async def chat(body: ChatBody, request: Request) -> StreamingResponse:
        assistant: Assistant = request.app.state.assistant
        # Opening a session reads the database, which would block the event loop.
        session = await asyncio.to_thread(assistant.session, session_id=body.session_id)
        response = session.send(body.text, task=body.task)
        return StreamingResponse(_lines(session, response), media_type="application/x-ndjson")

    return app


async def _lines(session: Session, response: Response) -> AsyncIterator[str]:
    try:
        async for part in response:
            yield json.dumps(asdict(part)) + "\n"
        turn = await asyncio.to_thread(lambda: response.turn)  # it waits until the turn is on disk
        notices = [asdict(notice) for notice in response.notices]
        end = {"turn_id": turn.id, "session_id": session.id, "task": turn.task, "notices": notices}
        yield json.dumps(end) + "\n"
    except AssistantError as error:  # the status code is already sent, so the error becomes a line
        yield json.dumps(_described(error)) + "\n"


def _described(error: AssistantError) -> dict[str, str]:
    return {"error": error.code, "message": error.message, "hint": error.hint}


app = create_app()
