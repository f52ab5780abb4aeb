"""`python -m senet_lab optuna-dashboard`: the studies of a store in a browser, by Optuna's own dashboard.

It serves this machine alone, and only reads unless something is changed in the browser. What it shows of a study is
written by `mirror`.
"""

from __future__ import annotations

import importlib.util
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import sqlalchemy as sa

from senet_lab.config import UserError
from senet_lab.studies.store import Store

HOST = "127.0.0.1"


class Server(ThreadingMixIn, WSGIServer):
    """Answers several requests at a time: some of the dashboard's plots take seconds."""

    daemon_threads = True


class SilentHandler(WSGIRequestHandler):
    """Prints no line for a request."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve_dashboard(url: str, port: int) -> None:
    """Serve the Optuna studies of a store until Ctrl-C.

    Args:
        url: of the store's database.
        port: 0 takes a free one.

    Raises:
        UserError: optuna-dashboard is not installed, the store cannot be read or holds no study, or the port is taken.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise UserError(
            "optuna-dashboard is not installed; pip install 'senet-lab[dashboard]', or `make setup`, does it"
        )
    store = Store(url, create=False)
    with store.engine.connect() as connection:
        has_studies = sa.inspect(connection).has_table("studies")
        studies = connection.execute(sa.text("SELECT count(*) FROM studies")).scalar() if has_studies else 0
    if not studies:
        raise UserError(f"{store.name} holds no study yet: there is nothing to show")
    import optuna
    import optuna_dashboard

    storage = optuna.storages.RDBStorage(
        store.url,
        engine_kwargs={"connect_args": store.waits},
        skip_compatibility_check=True,  # a store of another Optuna is shown as far as it goes
        skip_table_creation=True,
    )
    try:
        server = make_server(HOST, port, optuna_dashboard.wsgi(storage), Server, SilentHandler)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port} cannot be served: {getattr(error, 'strerror', None) or error}") from error
    with server:
        what = f"{studies} stud{'ies' if studies > 1 else 'y'}"
        print(f"{what} of {store.name} at http://{HOST}:{server.server_port}/ (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
