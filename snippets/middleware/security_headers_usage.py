"""Answer over http and https, with a policy for the pages and one for the rest."""

import asyncio

import httpx
from fastapi import FastAPI, Request, Response

from snippets.middleware.security_headers import HSTS, SecurityHeadersMiddleware


def telephony() -> FastAPI:
    """Return a service with calls as JSON, and a page that records voicemails."""
    app = FastAPI()

    @app.get("/calls")
    async def calls() -> list[int]:
        return [1, 2, 3]

    @app.get("/voicemail")
    async def record(request: Request) -> Response:
        page = f"<script nonce='{request.state.csp_nonce}'>record()</script>"
        microphone = {"Permissions-Policy": "microphone=(self)"}
        return Response(page, media_type="text/html", headers=microphone)

    return app


async def main() -> None:
    """Show what a browser is told."""
    app = SecurityHeadersMiddleware(
        telephony(), policies={"/voicemail": "script-src 'nonce-{nonce}'"}
    )
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as browser:
        answer = await browser.get("http://telephony/calls")
        for name, value in sorted(answer.headers.items()):
            print(f"{name}: {value[:41]}")
            # > content-length: 7
            # > content-security-policy: default-src 'none'; base-uri 'none'; form
            # > content-type: application/json
            # > permissions-policy: camera=(), geolocation=(), microphone=(),
            # > referrer-policy: strict-origin-when-cross-origin
            # > x-content-type-options: nosniff
            # > x-frame-options: DENY

        answer = await browser.get("https://telephony/calls")
        print(answer.headers["Strict-Transport-Security"])
        # > max-age=31536000; includeSubDomains

        pages = [await browser.get("http://telephony/voicemail") for _ in range(2)]
        nonces = [page.text.split("'")[1] for page in pages]
        policy = pages[0].headers["Content-Security-Policy"]
        print("the page's nonce:", policy == f"script-src 'nonce-{nonces[0]}'")
        # > the page's nonce: True
        print("another nonce:", nonces[0] != nonces[1])
        # > another nonce: True
        print(pages[0].headers.get_list("Permissions-Policy"))
        # > ['microphone=(self)']

    try:
        HSTS(max_age=3600, preload=True)
    except ValueError as error:
        print(error)
        # > preload needs a year at least, with subdomains


if __name__ == "__main__":
    asyncio.run(main())
