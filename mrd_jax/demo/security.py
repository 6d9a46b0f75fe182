# SPDX-License-Identifier: Apache-2.0
"""Security headers: the page loads nothing from other sites and cannot be embedded in them."""

from starlette import datastructures, types

HEADERS = {
    # The preview of a dropped picture is a blob: URL; everything else comes from this server.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Headers:
    """ASGI middleware that adds `HEADERS` to every response.

    Args:
      app: application to wrap.
    """

    def __init__(self, app: types.ASGIApp):
        self._app = app

    async def __call__(self, scope: types.Scope, receive: types.Receive, send: types.Send) -> None:
        """Implements the ASGI interface."""

        async def send_with_headers(message: types.Message) -> None:
            if message["type"] == "http.response.start":
                headers = datastructures.MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, send_with_headers)
