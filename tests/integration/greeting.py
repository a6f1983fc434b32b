"""An application of somebody else's."""

from __future__ import annotations

from ray import serve


class Greeting:
    def __call__(self) -> str:
        return "good day"


application = serve.deployment(Greeting, name="greeting", ray_actor_options={"num_cpus": 0}).bind()
CONFIG = {"name": "greeting", "route_prefix": "/greeting", "import_path": "tests.integration.greeting:application"}
