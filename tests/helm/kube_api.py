"""As much of a Kubernetes API server as `helm install` talks to: it tells what kinds there are and takes every object.

It keeps nothing: what was rendered is in Helm's answer. Objects that are asked for are not there, so every installation
is a first one.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = "v1.33.0"
KINDS = {
    "v1": {
        "configmaps": "ConfigMap",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "secrets": "Secret",
        "services": "Service",
    },
    "apps/v1": {"statefulsets": "StatefulSet"},
    "gateway.networking.k8s.io/v1": {"httproutes": "HTTPRoute"},
    "monitoring.coreos.com/v1": {"podmonitors": "PodMonitor", "servicemonitors": "ServiceMonitor"},
    "networking.k8s.io/v1": {"ingresses": "Ingress", "networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "ray.io/v1": {"rayclusters": "RayCluster", "rayjobs": "RayJob", "rayservices": "RayService"},
}
"""By group and version, plural names and kinds; another kind is refused, as in a cluster without its CRD."""
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


@contextmanager
def api_server() -> Iterator[str]:
    """A server on loopback, while the context lasts; gives the text of a kubeconfig."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield _kubeconfig(f"http://127.0.0.1:{server.server_address[1]}")
        finally:
            server.shutdown()
            thread.join()


def _kubeconfig(url: str) -> str:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "here", "cluster": {"server": url}}],
        "users": [{"name": "nobody", "user": {}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "nobody"}}],
        "current-context": "here",
    }
    return yaml.safe_dump(config, sort_keys=False)


def _discovery(path: str) -> dict[str, Any] | None:
    """What a server says about itself under ``path``; None for the path of an object."""
    if path == "/version":
        major, minor, _ = VERSION.removeprefix("v").split(".")
        return {"major": major, "minor": minor, "gitVersion": VERSION}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in KINDS if "/" in name]}
    known = KINDS.get(path.removeprefix("/apis/" if path.startswith("/apis/") else "/api/"))
    if known is None:
        return None
    resources = [
        {"name": plural, "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": VERBS}
        for plural, kind in known.items()
    ]
    group_version = path.split("/", 2)[2]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def _group(group_version: str) -> dict[str, Any]:
    name, version = group_version.split("/")
    described = {"groupVersion": group_version, "version": version}
    return {"name": name, "versions": [described], "preferredVersion": described}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: in two, each answer would wait 40 ms for an acknowledgement

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        found = _discovery(path)
        if found is not None:
            self._answer(200, found)
        elif path.endswith("/secrets"):  # releases that were installed before
            self._answer(200, {"kind": "SecretList", "apiVersion": "v1", "metadata": {}, "items": []})
        else:
            self._answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound"})

    def do_POST(self) -> None:
        self._answer(201, self._sent())

    def do_PUT(self) -> None:
        self._answer(200, self._sent())

    def log_message(self, *_: object) -> None:
        """Nothing: tests show what they need."""

    def _sent(self) -> dict[str, Any]:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body.startswith(b"{"):
            sent: dict[str, Any] = json.loads(body)
            return sent
        return {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release"}}  # Helm's record, in protobuf

    def _answer(self, status: int, answer: dict[str, Any]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
