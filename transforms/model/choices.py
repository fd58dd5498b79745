"""How a model may be called, in the words of the command line; all that a parser needs."""

AUTO = 'auto'
FLOAT32 = 'float32'
REDUCED = ('bfloat16', 'float16')
PRECISIONS = (AUTO, FLOAT32, *REDUCED)

TENSORFLOW, JAX, ONNX_RUNTIME = 'tensorflow', 'jax', 'onnxruntime'
BACKENDS = (AUTO, TENSORFLOW, JAX, ONNX_RUNTIME)
BACKEND_NAMES = {TENSORFLOW: 'TensorFlow', JAX: 'JAX', ONNX_RUNTIME: 'ONNX Runtime'}
"""For people."""

STRICT, FINITE, OFF = 'strict', 'finite', 'off'
CANARY_MODES = (STRICT, FINITE, OFF)

EMBEDDED = 'embedded'
"""The model that is used by default; its weights are in the package."""


def slower(name: str, why_saved: str) -> str:
    """What it costs that a BiT network is used as it was saved, as one line for people."""
    return (
        f'{name} is used as it was saved: {why_saved}.  It standardizes its kernels in every '
        'call and cannot use --precision bfloat16 or float16, without which a GPU is slow; '
        '--require_rebuilt stops instead'
    )
