"""An echo bot. Run it with: python3 echo_bot.py 8080"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class EchoBot(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # send the answer at once, though it is small

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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
