"""Lemmabeam: labels every image in a bucket."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (HERE / 'pipeline' / '__init__.py').read_text())[1]

setup(
    name='lemmabeam',
    version=VERSION,
    description='Labels every image in a bucket: a distributed batch pipeline on Apache Beam',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE', 'NOTICE'],
    # Keras 3.15 and numpy 2.4 need 3.11; Beam 2.77 has no release for 3.14 yet and TensorFlow
    # 2.21 was tried here on these two only.
    python_requires='>=3.11,<3.13',
    packages=[
        *find_packages(include=['pipeline*', 'transforms*'], exclude=['pipeline.api.lemmabeam']),
        'lemmabeam',
    ],
    package_dir={'lemmabeam': 'pipeline/api/lemmabeam'},
    package_data={
        'pipeline': ['sample/*'],
        'pipeline.report.html': ['report.css'],
        'transforms.model': ['data/*', 'data/canary/*'],
    },
    install_requires=[
        # Launcher and workers must agree on Beam; RunInference changes between minor releases.
        'apache-beam>=2.77,<2.78',
        # The network is Keras 3, which comes with TensorFlow; scores are only promised to be the
        # same bytes within one version.
        'tensorflow>=2.21,<2.22',
        'keras>=3.15,<4',
        # Loads TF-Hub modules; 0.16.1 is the first that works beside Keras 3.
        'tensorflow-hub>=0.16.1,<0.17',
        # It imports pkg_resources, which setuptools 82 no longer has.
        'setuptools>=77,<82',
        # AVIF and MPO as tested; its resize and draft decide the pixels, so no open end.
        'pillow>=12.3,<13',
        'google-cloud-storage>=3.1,<4',
        'google-auth>=2.38,<3',
        'google-api-core>=2.24,<3',
        'google-crc32c>=1.6,<2',
        # Downloads of models: proxies, redirects and netrc as people expect them.
        'requests>=2.32,<3',
        # read1 on responses, which total deadlines need.
        'urllib3>=2.5,<3',
        # Host names outside ASCII, as browsers read them.
        'idna>=3.7,<4',
        # Files are the same bytes within one version only; list_slice, run-ends and sort as used.
        'pyarrow>=21,<26',
        # The .h5 of the BiT authors; Keras needs it, too.
        'h5py>=3.12,<4',
        'numpy>=2.1,<3',
        'rich>=13.9,<16',
        # Shell completion: a script of the parsers, for bash, zsh and fish.
        'shtab>=1.13,<2',
    ],
    extras_require={
        'gpu': ['tensorflow[and-cuda]>=2.21,<2.22'],
        # Instead of TensorFlow (--backend jax): on CPUs, and with the wheels of CUDA 12, which
        # TensorFlow's extra brings as well.  Those of TPUs are JAX's own (jax[tpu]).
        'jax': ['jax>=0.8,<1'],
        'jax-cuda': ['jax[cuda12]>=0.8,<1'],
        # ONNX models (model.onnx).  On NVIDIA GPUs onnxruntime-gpu takes its place: both are the
        # same package to Python, so no extra can bring one beside the other.  Before 1.24 it read
        # weights from files outside of a model's folder.
        'onnx': ['onnxruntime>=1.24,<2'],
        'aws': ['boto3>=1.40,<2'],
        # With azure-identity, what `az login` or a machine of Azure knows is found.
        'azure': ['azure-identity>=1.23,<2', 'azure-storage-blob>=12.26,<13'],
        # Submits jobs of Dataflow; what else Beam's own extra brings is not needed for it.
        'gcp': ['google-cloud-dataflow-client>=0.13,<0.14'],
        'heif': ['pillow-heif>=1.1,<2'],
        # Models of the Hugging Face hub (hf://owner/name), and .safetensors in general.
        'hf': ['huggingface-hub>=0.34,<3', 'safetensors>=0.5,<1'],
        # What Beam's own YAML imports, without the pandas of its extra, which is too old for us.
        'yaml': ['docstring-parser>=0.15,<1', 'jinja2>=3,<3.2', 'jsonschema>=4,<5'],
        'dev': [
            # The coverage-guided fuzzer: wheels for this platform only, and 3.1 has none for 3.11.
            "atheris>=3,<3.1; sys_platform == 'linux' and platform_machine == 'x86_64'",
            'azure-identity>=1.23,<2',
            'azure-storage-blob>=12.26,<13',
            'boto3>=1.40,<2',
            'docstring-parser>=0.15,<1',
            'duckdb>=1.3,<3',
            'google-cloud-dataflow-client>=0.13,<0.14',
            'huggingface-hub>=0.34,<3',
            'hypothesis>=6.140,<7',
            'jax>=0.8,<1',
            'markdown-it-py>=3,<5',
            # An S3 to test against, as a process of its own.
            'moto[server]>=5.1,<6',
            'mypy>=1.18,<3',
            # Builds the graphs that tests label with.
            'onnx>=1.19,<2',
            'onnxruntime>=1.24,<2',
            'pandas>=2.2,<4',
            'pillow-heif>=1.1,<2',
            'pytest>=8.4,<10',
            'pytest-xdist>=3.8,<4',
            'ruff>=0.14,<1',
            'safetensors>=0.5,<1',
        ],
    },
    entry_points={'console_scripts': ['lemmabeam = pipeline.main:console']},
)
