"""Wire security headers into FastAPI: JSON, a page with a nonce, and the docs page."""

import base64
import hashlib
import html
import re

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from snippets.middleware.security_headers import ASGIApp, SecurityHeadersMiddleware

CDN = "https://cdn.jsdelivr.net"
PAGE = "default-src 'self'; script-src 'nonce-{nonce}'; frame-ancestors 'none'"


def policy_for(page: bytes) -> str:
    """Return a policy that lets exactly the scripts run which stand in this page."""
    scripts = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(one).digest()) for one in scripts]
    hashes = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    images = "data: https://fastapi.tiangolo.com"
    return (
        f"default-src 'none'; script-src {CDN} {hashes}; style-src {CDN}; "
        f"img-src {images}; connect-src 'self'; frame-ancestors 'none'"
    )


def create_app() -> ASGIApp:
    """Return a service of calls with a page for people and one for developers."""
    app = FastAPI(docs_url=None)
    docs = get_swagger_ui_html(openapi_url="/openapi.json", title="Telephony")

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return docs

    @app.get("/calls/{call_id}")
    async def show_call(call_id: int) -> dict[str, int]:
        return {"call": call_id}

    @app.get("/pages/{extension}", response_class=HTMLResponse)
    async def show_page(extension: str, request: Request) -> str:
        nonce = request.state.csp_nonce
        name = html.escape(extension)
        return f"<h1>{name}</h1><script nonce='{nonce}'>ring()</script>"

    policies = {"/docs": policy_for(bytes(docs.body)), "/pages": PAGE}
    return SecurityHeadersMiddleware(app, policies=policies)
