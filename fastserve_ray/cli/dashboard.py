"""``fastserve dashboard``: a Grafana dashboard of an endpoint's metrics."""

from __future__ import annotations

import click

from fastserve_ray.cli.common import print_json


@click.command("dashboard")
def command() -> None:
    """Print a Grafana dashboard as JSON.

    Import it in Grafana, with a Prometheus that scrapes /metrics of the endpoint as its data source.
    """
    from fastserve_ray.serve.dashboard import dashboard

    print_json(dashboard())
