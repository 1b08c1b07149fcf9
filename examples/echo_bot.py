"""
An echo bot. Run it with: python3 echo_bot.py 8080

If the environment variable SIGNING_SECRET has the gateway's secret, it only answers requests that are signed with it.
"""

import base64
import hashlib
import hmac
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ.get("SIGNING_SECRET")
KEY = base64.b64decode((SECRET or "").removeprefix("whsec_"))


def is_signed(headers, body):
    """Tell whether a request was signed with the secret in the last five minutes (standardwebhooks.com)."""
    try:
        fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        wanted = "v1," + base64.b64encode(hmac.digest(KEY, signed, hashlib.sha256)).decode()
        given = headers["webhook-signature"].split()
        return KEY and fresh and any(hmac.compare_digest(wanted.encode(), each.encode()) for each in given)
    except (TypeError, ValueError, AttributeError):
        return False


class EchoBot(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # send the answer at once, though it is small

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if SECRET is not None and not is_signed(self.headers, body):
            self.send_error(401)
            return
        request = json.loads(body)
        # A message without a body (somebody is typing, say) needs no reply.
        reply = {"body": f"You said: {request['body']}"} if "body" in request else {}
        answer = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


port = int(sys.argv[1]) if len(sys.argv) > 1 else 8080
server = ThreadingHTTPServer(("127.0.0.1", port), EchoBot)
print(f"component_post_url: http://127.0.0.1:{server.server_port}/", flush=True)
server.serve_forever()
