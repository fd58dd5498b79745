"""How a model may be called, in the words of the command line; all that a parser needs."""

AUTO = 'auto'
FLOAT32 = 'float32'
REDUCED = ('bfloat16', 'float16')
PRECISIONS = (AUTO, FLOAT32, *REDUCED)

TENSORFLOW, JAX = 'tensorflow', 'jax'
BACKENDS = (AUTO, TENSORFLOW, JAX)
BACKEND_NAMES = {TENSORFLOW: 'TensorFlow', JAX: 'JAX'}
"""For people."""

STRICT, FINITE, OFF = 'strict', 'finite', 'off'
CANARY_MODES = (STRICT, FINITE, OFF)

EMBEDDED = 'embedded'
"""The model that is used by default; its weights are in the package."""
