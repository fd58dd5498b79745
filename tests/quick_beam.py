"""Beam's own bookkeeping, remembered: more than half of a small run's time in a test.

While Beam builds and runs a graph, it parses the same options some 700 times, looks through the
signatures of the same functions some 20,000 times, through their code for a mistake in it, and
through the methods of the same DoFns 600 times. The answers are a function of what is asked, so
the tests keep them. Where a type hint was given, which it writes down 900 times, is for debugging;
how large a side input is, for which it looks through all modules each time, is for a cache that
nothing here fills. Runs in processes of their own, all engines and benchmarks among them, do
without.
"""

import weakref
from collections.abc import Callable
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.worker import statecache
from apache_beam.transforms import core, userstate
from apache_beam.typehints import decorators

_view_as = PipelineOptions.view_as
_specs = userstate.get_dofn_specs
_views: weakref.WeakKeyDictionary[PipelineOptions, dict[type, PipelineOptions]] = (
    weakref.WeakKeyDictionary()
)
_states: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def install() -> None:
    """Remembers from now on, in this process; once is enough."""
    PipelineOptions.view_as = _remembered_view_as
    core.get_function_args_defaults = _remembered(core.get_function_args_defaults)
    core._check_fn_use_yield_and_return = _remembered(core._check_fn_use_yield_and_return)
    decorators.get_signature = _remembered(decorators.get_signature)
    userstate.get_dofn_specs = _remembered_specs
    decorators.IOTypeHints._make_origin = classmethod(lambda *_, **__: [])
    statecache.get_deep_size = lambda *_: 1


def _remembered_view_as(options: PipelineOptions, cls: type) -> PipelineOptions:
    # All views share one dictionary of values, so that an old one is as good as a new one.
    views = _views.setdefault(options, {})
    if cls not in views:
        views[cls] = _view_as(options, cls)
    return views[cls]


def _remembered(ask: Callable[[Callable[..., Any]], Any]) -> Callable[[Callable[..., Any]], Any]:
    """What is asked of a function, asked once for each."""
    answers: weakref.WeakKeyDictionary[Callable[..., Any], dict[bool, Any]] = (
        weakref.WeakKeyDictionary()
    )

    def remembered(function: Callable[..., Any]) -> Any:
        # A bound method has an argument less than its function, and is made anew at each access.
        plain = getattr(function, '__func__', function)
        try:
            known = answers.setdefault(plain, {})
        except TypeError:  # what cannot be referred to weakly
            return ask(function)
        is_plain = function is plain
        if is_plain not in known:
            known[is_plain] = ask(function)
        return known[is_plain]

    return remembered


def _remembered_specs(function: core.DoFn) -> Any:
    # Those of a class, or of the function that it wraps.
    is_wrapped = isinstance(function, core.CallableWrapperDoFn)
    key = function if is_wrapped else type(function)
    if key not in _states:
        _states[key] = _specs(function)
    return _states[key]
