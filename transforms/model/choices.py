"""How a model may be called, in the words of the command line; a parser needs no more of it."""

AUTO = 'auto'
PRECISIONS = (AUTO, 'float32', 'bfloat16', 'float16')

STRICT, FINITE, OFF = 'strict', 'finite', 'off'
CANARY_MODES = (STRICT, FINITE, OFF)

EMBEDDED = 'embedded'
"""The model that is used unless another is named; its weights are in the package."""
