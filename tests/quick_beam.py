"""Beam's own bookkeeping, remembered: more than half of a small run's time in a test.

While Beam builds and runs a graph, it parses the same options some 700 times, and looks through
the signatures of the same functions some 17,000 times, and through the methods of the same DoFns
600 times. The answers are a function of what is asked, so the tests keep them. Where a type hint
was given, which it writes down 900 times, is for debugging. Runs in processes of their own, all
engines and benchmarks among them, do without.
"""

import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms import core, userstate
from apache_beam.typehints.decorators import IOTypeHints

_view_as = PipelineOptions.view_as
_inspect = core.get_function_args_defaults
_specs = userstate.get_dofn_specs
_views: weakref.WeakKeyDictionary[PipelineOptions, dict[type, PipelineOptions]] = (
    weakref.WeakKeyDictionary()
)
_arguments: weakref.WeakKeyDictionary[Callable[..., Any], dict[bool, Any]] = (
    weakref.WeakKeyDictionary()
)
_states: weakref.WeakKeyDictionary[core.DoFn, Any] = weakref.WeakKeyDictionary()


def install() -> None:
    """Remembers from now on, in this process; once is enough."""
    PipelineOptions.view_as = _remembered_view_as
    core.get_function_args_defaults = _remembered_arguments
    userstate.get_dofn_specs = _remembered_specs
    IOTypeHints._make_origin = classmethod(lambda *_, **__: [])


def _remembered_view_as(options: PipelineOptions, cls: type) -> PipelineOptions:
    # All views share one dictionary of values, so that an old one is as good as a new one.
    views = _views.setdefault(options, {})
    if cls not in views:
        views[cls] = _view_as(options, cls)
    return views[cls]


def _remembered_arguments(function: Callable[..., Any]) -> Any:
    # A bound method has an argument less than its function, and is made anew at each access.
    plain = getattr(function, '__func__', function)
    try:
        known = _arguments.setdefault(plain, {})
    except TypeError:  # what cannot be referred to weakly
        return _inspect(function)
    is_plain = function is plain
    if is_plain not in known:
        known[is_plain] = _inspect(function)
    return known[is_plain]


def _remembered_specs(function: core.DoFn) -> Any:
    if function not in _states:
        _states[function] = _specs(function)
    return _states[function]
