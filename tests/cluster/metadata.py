"""EC2's instance metadata service, version 2, as far as spot notices go: `python -m tests.cluster.metadata FILE PORT`.

A token comes first; the notice is what the file says, and while there is no file, 404.
"""

import http.server
import sys
from pathlib import Path

TOKEN = "secret"


class Service(http.server.ThreadingHTTPServer):
    """On loopback."""

    def __init__(self, notice: Path, port: int = 0) -> None:
        self.notice = notice
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        lifetime = int(self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", 0))
        is_right = self.path == "/latest/api/token" and 1 <= lifetime <= 21600
        self.answer(200, TOKEN) if is_right else self.answer(400)

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            self.answer(401)
        elif self.path != "/latest/meta-data/spot/instance-action" or not self.server.notice.exists():
            self.answer(404)
        else:
            self.answer(200, self.server.notice.read_text())


if __name__ == "__main__":
    Service(Path(sys.argv[1]), int(sys.argv[2])).serve_forever()
