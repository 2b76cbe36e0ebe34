"""The page of the OpenAPI description: Swagger UI, whose files lie in a package."""

from importlib import resources

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>xclip-jax: API</title>
<link rel="stylesheet" href="/docs/files/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="/docs/files/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null,
});
"""


def add(app: FastAPI) -> None:
    """Adds /docs and the files that it needs."""
    app.mount(
        "/docs/files", StaticFiles(directory=resources.files("fastapi_swagger") / "resources")
    )

    @app.get("/docs", include_in_schema=False)
    async def docs():
        return HTMLResponse(HTML)

    @app.get("/docs/start.js", include_in_schema=False)
    async def start():
        return Response(START, media_type="text/javascript")
