"""A stand-in on loopback for the Hub's sign-in: OpenID Connect with the code flow, which says yes to everyone at once."""

import json
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import RSAKey


CLIENT, SECRET = "space-client", "space-secret"


class SignIn:
    """Serves until :meth:`close`. Who signs in is ``name``, and gets ``token``."""

    def __init__(self, name: str, token: str):
        self.name, self.token = name, token
        self.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
        self.nonces: dict[str, str] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        """What Spaces set for an app with ``hf_oauth: true``."""
        return {
            "SYSTEM": "spaces",
            "SPACE_ID": "me/space",
            "OAUTH_CLIENT_ID": CLIENT,
            "OAUTH_CLIENT_SECRET": SECRET,
            "OAUTH_SCOPES": "openid profile write-repos",
            "OPENID_PROVIDER_URL": self.url,
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def id_token(self, code: str) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url, "aud": CLIENT, "sub": "1", "iat": now, "exp": now + 3600, "nonce": self.nonces.pop(code),
            "name": self.name, "preferred_username": self.name, "profile": f"{self.url}/{self.name}", "picture": "",
        }  # fmt: skip
        return jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.key)


def _handler(sign_in: SignIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            address = urlsplit(self.path)
            if address.path == "/authorize":
                asked = {name: values[0] for name, values in parse_qs(address.query).items()}
                code = secrets.token_hex(8)
                sign_in.nonces[code] = asked["nonce"]
                self.send_response(302)
                back = urlencode({"code": code, "state": asked["state"]})
                self.send_header("Location", f"{asked['redirect_uri']}{'&' if '?' in asked['redirect_uri'] else '?'}{back}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            if address.path == "/jwks":
                return self.answer({"keys": [sign_in.key.as_dict(private=False)]})
            return self.answer(
                {
                    "issuer": sign_in.url,
                    "authorization_endpoint": f"{sign_in.url}/authorize",
                    "token_endpoint": f"{sign_in.url}/token",
                    "jwks_uri": f"{sign_in.url}/jwks",
                    "id_token_signing_alg_values_supported": ["RS256"],
                }
            )

        def do_POST(self):
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            return self.answer(
                {
                    "access_token": sign_in.token,
                    "token_type": "bearer",
                    "expires_in": 3600,
                    "scope": "openid profile write-repos",
                    "id_token": sign_in.id_token(asked["code"][0]),
                }
            )

        def answer(self, value):
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler
