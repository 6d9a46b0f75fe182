# SPDX-License-Identifier: Apache-2.0
"""Programs that the runs of a file share."""

import functools

import pytest

from mrd_jax.training import run as run_lib


def shared(method, key):
    """Returns a method that makes one value per key of its arguments."""
    made = {}

    @functools.wraps(method)
    def get(*arguments, **options):
        name = key(*arguments, **options)
        if name not in made:
            # The arguments are kept, so that no other object gets their id.
            made[name] = method(*arguments, **options), arguments
        return made[name][0]

    return get


def body_key(backend, body):
    """Key of a per-device function: what it is made of; itself if that is unknown."""
    if not isinstance(body, functools.partial):
        return body
    parts = {name: value for name, value in body.keywords.items() if name != "config"}
    kept = tuple((name, id(parts[name])) for name in sorted(parts))
    return id(backend), body.func, kept, body.keywords["config"].to_json()


@pytest.fixture(scope="module")
def shared_programs():
    """Compiles the step and the embedding of a config once per file, not once per run.

    Tracing takes most of the time of runs of a few steps. Runs in processes of their own, which
    trace anew, are in `tests/faults` and `tests/distributed`.
    """
    with pytest.MonkeyPatch.context() as patch:
        build = shared(
            run_lib.build_run,
            lambda config, *, devices=None: (config.to_json(), devices and tuple(devices)),
        )
        patch.setattr(run_lib, "build_run", build)
        for backend in run_lib.backends.BACKENDS.values():
            for name in ("train", "embed"):
                patch.setattr(backend, name, shared(getattr(backend, name), body_key))
        yield
