"""A made-up OpenAI-compatible server for the tests of audits."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers as vLLM does; `wmcore: false` in vllm_xargs opts out, `return_token_ids` gives token ids."""

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, body, self.headers.get("Authorization")))
        if server.answer is not None:
            return self.reply(*server.answer)
        chat = self.path.endswith("chat/completions")
        prompt = body["messages"][0]["content"] if chat else body["prompt"]
        marked = body.get("vllm_xargs", {}).get("wmcore", True)
        with server.lock:
            (made,) = server.writer.write([prompt], [0], marked=marked)
        choice = {"message": {"content": made.text}} if chat else {"text": made.text}
        if body.get("return_token_ids"):
            choice["token_ids"] = made.tokens
        if body.get("logprobs"):
            names = [f"token_id:{token}" for token in made.tokens]
            content = [{"token": name} for name in names]
            choice["logprobs"] = {"content": content} if chat else {"tokens": names}
        answer = {"choices": [choice], "usage": {"completion_tokens": made.drawn}}
        return self.reply(200, json.dumps(answer))

    def reply(self, status, text):
        if status is None:
            return self.wfile.write(text.encode())
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:9/v1")
        self.end_headers()
        for part in text if self.server.drip else [text]:
            time.sleep(self.server.drip)
            self.wfile.write(part.encode())

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(writer=None, answer=None, drip=0.0):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.drip = True, drip
    server.handle_error = lambda *_: None  # a client that has gone
    server.writer, server.answer, server.seen, server.lock = writer, answer, [], threading.Lock()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        yield server
    finally:
        server.shutdown()
        server.server_close()
