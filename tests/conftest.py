"""Lets tests import our code by the names Ansible gives it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import ansible.module_utils
import pytest
from hypothesis import HealthCheck, settings

PROJECT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

# A busy computer is no fault of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def load_plugin() -> Callable[[str], ModuleType]:
    """Import a file of library/, action_plugins/ or filter_plugins/ by its path in the project."""

    def load(path: str) -> ModuleType:
        name = "mailwright_" + path.removesuffix(".py").replace("/", "_")
        spec = importlib.util.spec_from_file_location(name, PROJECT / path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load
