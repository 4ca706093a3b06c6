"""A real HTTP server on loopback that speaks the OpenAI chat-completions protocol, with a model the test writes."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np


class OpenAiServer:
    """Use as a context manager; `model(request) -> str | (status, body, headers)`.

    Attributes:
        requests: every parsed request body, in order of arrival.
        keys: Authorization headers seen.
    """

    def __init__(self, model):
        self.model, self.requests, self.keys = model, [], []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.requests.append(body)
                server.keys.append(self.headers.get("authorization", ""))
                answer = server.model(body) if self.path == "/v1/chat/completions" else (404, "no such path", {})
                if isinstance(answer, str):
                    message = {"role": "assistant", "content": answer}
                    answer = 200, json.dumps({"object": "chat.completion", "choices": [{"message": message}]}), {}
                status, text, headers = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args):
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *exc):
        self._http.shutdown()
        self._http.server_close()


def frames_in(request) -> list[np.ndarray]:
    """Decode the pictures of a request to RGB, as a model would."""
    parts = [part for part in request["messages"][-1]["content"] if part["type"] == "image_url"]
    raw = [base64.b64decode(part["image_url"]["url"].split(",", 1)[1]) for part in parts]
    return [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for data in raw]


def question_in(request) -> str:
    return next(part["text"] for part in request["messages"][-1]["content"] if part["type"] == "text")


def grade(success: bool, *, names=("goal",), texts=()) -> str:
    return json.dumps({"text_in_image": list(texts), "reason": "seen", "criteria": dict.fromkeys(names, success)})
